"""One training step of a tiny Llama with fixed numbers; run as a script it writes them down anew."""

import json
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "model"))

import torch
from architectures import tiny
from small_training import OBJECTIVE, some_pairs, trained

from evenhand.model.encode import EncodedPair
from evenhand.model.forward import Policy
from evenhand.training.goal import Goal
from evenhand.training.optim import MasterAdamW
from evenhand.training.plan import micro_batches
from evenhand.training.share import Share
from evenhand.training.step import train_step


def golden_pairs() -> list[EncodedPair]:
    """Twelve pairs, some of them ranked answers to one prompt."""
    return some_pairs(12, seed=2024, largest_group=3)


def golden_step() -> dict[str, float]:
    """Figures of one step at learning rate 1e-3, gradients scaled down to norm 1."""
    policy = Policy(tiny("llama"))
    before = trained(policy)
    optimizer = MasterAdamW(policy, weight_decay=0.01)
    result = train_step(
        policy, Goal(OBJECTIVE), optimizer, Share.alone(micro_batches(golden_pairs(), 100)[0]), (1e-3, 1.0)
    )
    moved = sum(float((weight - before[name]).double().square().sum()) for name, weight in trained(policy).items())
    return {
        "loss": result.loss,
        "gradient_norm": result.gradient_norm,
        "update_norm": math.sqrt(moved),
        "accuracy": result.accuracy,
        "tokens": float(result.tokens),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    target = Path(__file__).parent / "golden_step.json"
    target.write_text(json.dumps(golden_step(), indent=2) + "\n")
    sys.stdout.write(f"wrote {target}\n")
