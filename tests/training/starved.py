"""A child: one step of a tiny Llama within so many more bytes of address space; prints the budget it ended with.

Its gradient and that of the same step with that budget from the start must be the same to 1e-6: not the same bits,
since a matrix product that gets no scratch memory may be done in another order.
"""

import re
import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "model"))

import numpy as np
from architectures import tiny
from small_training import OBJECTIVE
from torch import Tensor

from evenhand.model.encode import EncodedPair, side
from evenhand.model.forward import Policy
from evenhand.training.budget import within_memory
from evenhand.training.goal import Goal
from evenhand.training.optim import MasterAdamW
from evenhand.training.plan import micro_batches
from evenhand.training.share import Share
from evenhand.training.step import train_step


def stepped(pairs: list[EncodedPair], budget: int, limit: int | None) -> tuple[dict[str, Tensor], int]:
    """The gradient of a first step (AdamW's first moment is a tenth of it), and the budget it ended with."""
    policy = Policy(tiny("llama"))
    optimizer = MasterAdamW(policy, 0.0)
    before = resource.getrlimit(resource.RLIMIT_AS)
    if limit is not None:
        held = re.search(r"VmSize:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert held
        resource.setrlimit(resource.RLIMIT_AS, (int(held[1]) * 1024 + limit, before[1]))
    try:
        _, budget = within_memory(
            pairs,
            budget,
            lambda tokens: train_step(
                policy, Goal(OBJECTIVE), optimizer, Share.alone(micro_batches(pairs, tokens)[0]), (1e-3, 1.0)
            ),
            optimizer.forget_gradients,
        )
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    return {name: 10 * t for name, t in optimizer.tensors() if name.startswith("exp_avg.")}, budget


if __name__ == "__main__":
    draw = np.random.default_rng(0)
    rows = [[side(draw.integers(3, 199, 250).tolist(), 100) for _ in range(2)] for _ in range(24)]
    given = [EncodedPair(i, f"id{i}", str(i), *both) for i, both in enumerate(rows)]
    got, found = stepped(given, 1 << 20, int(sys.argv[1]))
    for name, gradient in stepped(given, found, None)[0].items():
        assert float((got[name] - gradient).norm()) <= 1e-6 * float(gradient.norm()), name
    sys.stdout.write(f"{found}\n")
