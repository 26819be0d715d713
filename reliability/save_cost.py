"""R15: what a safe save of a 135M model's whole training state costs over a plain one, in turns on the same disk.

    python reliability/save_cost.py --rounds 3 [--weights 134515008]

Plain is safetensors' `save_file` where it will be read from, synced to the disk, since no save counts before that; how long it
takes without a sync is told beside it.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import tiny as _  # noqa: F401 - finds the sources
import torch
from safetensors.torch import save_file

from evenhand.training.checkpoint import save_checkpoint

GOAL = 0.35
SMOLLM2_135M = 134_515_008


def seconds_of(write: Callable[[Path], object], root: Path) -> float:
    """How long `write` takes into an empty folder, with the disk's queue empty before."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    os.sync()
    began = time.perf_counter()
    write(root)
    return time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--weights", type=int, default=SMOLLM2_135M)
    asked = parser.parse_args()
    draw = torch.Generator().manual_seed(0)
    layers = [(f"{kind}.{i}", asked.weights // 30) for kind in ("master", "exp_avg", "exp_avg_sq") for i in range(30)]
    tensors = {name: torch.randn(size, generator=draw) for name, size in layers}

    def plain(root: Path) -> None:
        save_file(tensors, root / "state.safetensors")

    def synced(root: Path) -> None:
        plain(root)
        with (root / "state.safetensors").open("rb") as file:
            os.fsync(file.fileno())

    ways = {"plain": plain, "synced": synced, "safe": lambda root: save_checkpoint(root, 1, {}, tensors)}
    took: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory(dir=os.environ.get("EVENHAND_SCRATCH")) as scratch:
        for round_ in range(asked.rounds):
            for name in list(ways)[round_ % 3 :] + list(ways)[: round_ % 3]:
                took[name].append(seconds_of(ways[name], Path(scratch) / "root"))
    median = {name: statistics.median(values) for name, values in took.items()}
    size = sum(tensor.nbytes for tensor in tensors.values()) / 2**20
    print(f"{size:.0f} MiB, median of {asked.rounds}: " + ", ".join(f"{n} {s:.2f} s" for n, s in median.items()))
    over_plain, over_synced = (median["safe"] / median[name] - 1 for name in ("plain", "synced"))
    print(f"R15 safe save: {over_synced:+.0%} over a plain save that is synced, {over_plain:+.0%} over one that is not")
    return 0 if over_synced <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
