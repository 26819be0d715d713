"""R12: SIGKILL one of two gloo ranks; the other ends within 10 seconds, and the run goes on to the same bits.

    python reliability/rank_kill.py --kills 10 --seed 1

Half of the kills come while the other rank computes, and does not wait for anybody. Another number of ranks is refused
unless it is allowed.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tiny import Hooks, differing, ended, ended_within, fingerprint, fork, fork_ranks, kill, train_tiny, verdict

GOAL_SECONDS = 10.0


def strike(folder: Path, draw: random.Random, busy: bool, log: Path) -> tuple[float, int | None]:
    """Kill one rank at a random step; seconds until the other has ended, and how."""
    begun, tell = os.pipe()

    def report(record: dict[str, Any], _: int) -> None:
        os.write(tell, b".")
        if busy and record["step"] == 3:
            time.sleep(60)  # rank 0 is at work of its own

    pids = fork_ranks(lambda: train_tiny(folder, Hooks(report=report), parallel="fsdp"), 2, log)
    os.close(tell)  # so that ranks that end early are read as an end, and not waited for
    for _ in range(3 if busy else draw.randrange(1, 4)):
        os.read(begun, 1)
    time.sleep(draw.uniform(0, 0.1))
    victim = 1 if busy else draw.randrange(2)
    kill(pids[victim])
    began = time.monotonic()
    code = ended_within(pids[1 - victim], 30.0)
    seconds = time.monotonic() - began
    if code is None:
        kill(pids[1 - victim])
        ended(pids[1 - victim])
    ended(pids[victim])
    os.close(begun)
    return seconds, code


def drill(kills: int, seed: int, scratch: Path) -> tuple[int, int, float]:
    """(kills that ended in time and went on to the same bits, kills, the slowest end in seconds); then the refusals."""
    draw = random.Random(seed)
    whole, log = scratch / "whole", scratch / "log"
    assert {ended(pid) for pid in fork_ranks(lambda: train_tiny(whole, parallel="fsdp"), 2, log)} == {0}, (
        log.read_text()
    )
    wanted, good, slowest = fingerprint(whole), 0, 0.0
    for i in range(kills):
        folder = scratch / f"run-{i}"
        seconds, code = strike(folder, draw, i % 2 == 1, log)
        slowest = max(slowest, seconds)
        again = {ended(pid) for pid in fork_ranks(lambda: train_tiny(folder, parallel="fsdp"), 2, log)}
        same = again == {0} and not differing(fingerprint(folder), wanted)
        # A rank that was done already has ended well; any other says that it lost one.
        ok = seconds <= GOAL_SECONDS and code in (74, 0) and same
        good += ok
        print(
            f"kill {i}: the other ended with {code} after {seconds:.1f} s, then {'the same bits' if same else again}",
            flush=True,
        )
    return good + other_size(scratch, log), kills + 1, slowest


def other_size(scratch: Path, log: Path) -> bool:
    """Shards of two ranks: one rank is refused by name, and reads them when it is allowed."""
    folder = scratch / "resized"

    def stop(record: dict[str, Any], _: int) -> None:
        if record["step"] == 4:
            time.sleep(0.3)
            os._exit(99)

    for pid in fork_ranks(lambda: train_tiny(folder, Hooks(report=stop), parallel="fsdp"), 2, log):
        ended(pid)
    said = scratch / "refused.log"
    refused = ended(fork(lambda: train_tiny(folder), said)) == 2 and "world_size (2, now 1)" in said.read_text()
    went_on = ended(fork(lambda: train_tiny(folder, allowed=("world_size",)), said)) == 0
    if not (refused and went_on):
        print(f"another number of ranks: refused {refused}, went on {went_on}: {said.read_text()}", flush=True)
    return refused and went_on


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        good, cases, slowest = drill(asked.kills, asked.seed, Path(scratch))
    rest = f"rank failures (the last: another number of ranks) survived, the slowest end after {slowest:.1f} s"
    return verdict("R12 rank failure", good, cases, rest)


if __name__ == "__main__":
    sys.exit(main())
