"""R14: the address space is limited at ten levels; the run ends with advice and its state is as it was, or it trains.

python reliability/little_memory.py --levels 10
"""

import argparse
import resource
import sys
import tempfile
from pathlib import Path

import pyarrow.compute  # noqa: F401 - a library cannot be opened once memory is short

from tiny import differing, ended, fingerprint, fork, train_tiny, verdict

ADVICE = "out of memory"
# 7 million weights, all of a step in one micro-batch: it needs some hundred MiB more than the process has before.
MODEL = {"size": (60, 1024), "batch_pairs": 60, "token_budget": 10**6, "steps": 3, "checkpoint_every": 1}


def limited(folder: Path, room: int) -> None:
    """Train under a limit of `room` bytes above what this process has, as the command would report it."""
    from evenhand.cli.main import _is_out_of_memory
    from evenhand.errors import UserError

    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + room, now + room))
    try:
        train_tiny(folder, **MODEL)
    except (RuntimeError, MemoryError, OSError) as error:
        if not _is_out_of_memory(error) and "annot allocate memory" not in str(error):
            raise
        raise UserError(ADVICE) from None


def drill(levels: int, scratch: Path) -> tuple[int, int, int]:
    """(levels at which all held, levels, how many of them were too little)."""
    whole = scratch / "whole"
    assert ended(fork(lambda: train_tiny(whole, **MODEL), scratch / "log")) == 0
    wanted = fingerprint(whole, 3)
    held = short = 0
    for level in range(levels):
        folder, log = scratch / f"run-{level}", scratch / f"{level}.log"
        room = int(2**20 * (2 + 500 * level / max(1, levels - 1)))
        code = ended(fork(lambda: limited(folder, room), log))
        said = log.read_text()
        short += code != 0
        spoke = code == 0 or (code == 2 and (ADVICE in said or "memory ran out" in said))
        again = ended(fork(lambda: train_tiny(folder, **MODEL), log))
        # A step that ran out was done again in smaller micro-batches: the journal says so, and sums round otherwise.
        halved = '"note"' in (folder / "journal.jsonl").read_text()
        same = again == 0 and (halved or not differing(fingerprint(folder, 3), wanted))
        held += spoke and same
        print(
            f"{room / 2**20:.0f} MiB: exit {code}, then {('its end, halved' if halved else 'the same bits') if same else again} {'' if spoke else said}",
            flush=True,
        )
    return held, levels, short


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--levels", type=int, default=10)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        good, levels, short = drill(asked.levels, Path(scratch))
    return verdict(
        "R14 little memory", good, levels, f"levels ended in words or trained ({short} were too little), state intact"
    )


if __name__ == "__main__":
    sys.exit(main())
