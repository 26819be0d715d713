"""R6: SIGTERM or SIGINT at random moments; the running step is saved, the exit code says so, and the bits are the same.

python reliability/preempt.py --n 50 --seed 3
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tiny import Hooks, differing, ended, fingerprint, fork, kill, read_journal, train_tiny, verdict

from evenhand.training.checkpoint import newest_checkpoint


def preempt(count: int, seed: int, scratch: Path) -> tuple[int, int]:
    """(signals that were honoured, signals)."""
    draw = random.Random(seed)
    whole = scratch / "whole"
    began = time.monotonic()
    assert ended(fork(lambda: train_tiny(whole, checkpoint_every=3), scratch / "log")) == 0
    length, wanted = time.monotonic() - began, fingerprint(whole)
    good = done = 0
    while done < count:
        number = (signal.SIGTERM, signal.SIGINT)[done % 2]
        folder = scratch / f"run-{done}"
        code = signalled(folder, number, draw.uniform(0, 0.5) * length)
        if code == 0:
            continue  # it had ended before
        done += 1
        saved, journal = newest_checkpoint(folder / "checkpoints"), read_journal(folder / "journal.jsonl")
        ok = code == 128 + number and saved is not None and saved.step == journal[-1]["step"]
        ok = ok and ended(fork(lambda: train_tiny(folder, checkpoint_every=3), scratch / "log")) == 0
        ok = ok and not differing(fingerprint(folder), wanted)
        good += ok
        if not ok:
            print(f"{number.name}: exit {code}, saved {saved and saved.step}, journal {journal[-1:]}", flush=True)
        shutil.rmtree(folder)
    return good, done


def signalled(folder: Path, number: signal.Signals, delay: float) -> int:
    """Start a run, signal it `delay` seconds after its first step; its exit code."""
    shutil.rmtree(folder, ignore_errors=True)
    begun, tell = os.pipe()

    def report(record: dict[str, Any], _: int) -> None:
        if record["step"] == 1:
            os.write(tell, b".")

    pid = fork(lambda: train_tiny(folder, Hooks(report=report), checkpoint_every=3), folder.with_suffix(".log"))
    os.close(tell)  # so that a child that ends early is read as an end, and not waited for
    os.read(begun, 1)
    time.sleep(delay)
    kill(pid, number)
    os.close(begun)
    return ended(pid)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=50)
    parser.add_argument("--seed", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        good, done = preempt(asked.n, asked.seed, Path(scratch))
    return verdict(
        "R6 preemption", good, done, "signals saved the running step, said so, and went on with the same bits"
    )


if __name__ == "__main__":
    sys.exit(main())
