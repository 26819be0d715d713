"""The same run on 1, 2 and 3 gloo ranks, as copies and as shards, full and LoRA: loss and final weights agree.

python reliability/ranks_agree.py
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tiny import QUICK, Adapter, ended, fork_ranks, read_journal, train_tiny, verdict, verify_checkpoint

GOAL = 1e-5
KINDS = {"full": None, "LoRA": Adapter(4, 8.0)}


def run(folder: Path, size: int, parallel: str, adapter: Adapter | None) -> None:
    pids = fork_ranks(
        lambda: train_tiny(folder, None, adapter, parallel=parallel, batch_pairs=8), size, folder.with_suffix(".log")
    )
    codes = [ended(pid) for pid in pids]
    assert codes == [0] * size, f"{folder}: ranks ended with {codes}: {folder.with_suffix('.log').read_text()[-2000:]}"


def distance(one: Path, other: Path) -> float:
    """The largest relative difference of a loss or of a weight tensor."""
    step = QUICK["steps"]
    saved = [verify_checkpoint(folder / "checkpoints" / f"step-{step:06d}") for folder in (one, other)]
    assert all(saved)
    a, b = (checkpoint.tensors() for checkpoint in saved)
    weights = [float((a[n] - b[n]).norm() / a[n].norm()) for n in a if n.startswith("master.") and a[n].norm()]
    losses = [
        abs(x["loss"] - y["loss"]) / abs(x["loss"])
        for x, y in zip(*(read_journal(folder / "journal.jsonl") for folder in (one, other)), strict=True)
    ]
    return max(*weights, *losses)


def agree(scratch: Path, sizes: tuple[int, ...] = (2, 3)) -> tuple[int, int, float]:
    """(cases within the goal, cases, the largest distance)."""
    found = []
    for kind, adapter in KINDS.items():
        alone = scratch / f"{kind}-1"
        run(alone, 1, "ddp", adapter)
        for size in sizes:
            for parallel in ("ddp", "fsdp"):
                folder = scratch / f"{kind}-{parallel}-{size}"
                run(folder, size, parallel, adapter)
                found.append(distance(alone, folder))
                print(f"{kind}, {parallel}, {size} ranks: {found[-1]:.1e}", flush=True)
    return sum(value <= GOAL for value in found), len(found), max(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two ranks only")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        good, cases, worst = agree(Path(scratch), (2,) if asked.quick else (2, 3))
    return verdict("ranks agree", good, cases, f"cases within {GOAL:g} of one rank, largest {worst:.1e}")


if __name__ == "__main__":
    sys.exit(main())
