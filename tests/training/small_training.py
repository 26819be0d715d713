"""Random encoded pairs and training settings for the tiny decoders of `architectures`."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from architectures import VOCABULARY, tiny
from torch import Tensor, nn

from evenhand.model.adapter import Adapter
from evenhand.model.encode import EncodedPair, side
from evenhand.objectives.simpo import SimPO
from evenhand.training.loop import Hooks, Outcome
from evenhand.training.sections import TrainingSection
from evenhand.training.train import Place, make_policy, train_policy

OBJECTIVE = SimPO(beta=2.0, margin=0.5)
SETTINGS: dict[str, Any] = {
    "batch_pairs": 5,
    "steps": 6,
    "learning_rate": 1e-3,
    "seed": 3,
    "weight_decay": 0.01,
    "token_budget": 60,
    "checkpoint_every": 2,
}


def settings(**changes: Any) -> TrainingSection:
    """Training settings of a run of a second, with `changes`."""
    return TrainingSection.model_validate(SETTINGS | changes)


def some_pairs(count: int, seed: int = 0, largest_group: int = 1) -> list[EncodedPair]:
    """`count` random pairs, in groups of 1 to `largest_group` that share a prompt as ranked answers do."""
    draw = np.random.default_rng(seed)

    def tokens(low: int, high: int) -> list[int]:
        return [int(t) for t in draw.integers(3, VOCABULARY, draw.integers(low, high))]

    pairs: list[EncodedPair] = []
    while len(pairs) < count:
        prompt, group = tokens(3, 12), len(pairs)
        for _ in range(int(draw.integers(1, largest_group + 1))):
            chosen, rejected = ([*prompt, *tokens(1, 9), 2] for _ in range(2))
            row = len(pairs)
            pairs.append(
                EncodedPair(row, f"id{row}", str(group), side(chosen, len(prompt)), side(rejected, len(prompt)))
            )
    return pairs[:count]


def run(
    folder: Path,
    training: TrainingSection,
    hooks: Hooks | None = None,
    adapter: Adapter | None = None,
    identity: dict[str, str] | None = None,
) -> tuple[Outcome, dict[str, Tensor]]:
    """Train the tiny Llama on 17 pairs in `folder`; the outcome and the weights that were trained."""
    folder.mkdir(parents=True, exist_ok=True)
    policy = make_policy(tiny("llama"), adapter, training)
    work = (some_pairs(17), OBJECTIVE, training)
    outcome = train_policy(policy, work, Place(folder, identity=identity or {}), hooks or Hooks())
    return outcome, trained(policy)


def trained(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every weight that requires a gradient."""
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}


def assert_same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Every tensor of both, bit for bit."""
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different
