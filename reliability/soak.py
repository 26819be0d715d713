"""R16: a long run that saves every step; memory and open files stay flat, the disk holds keep + 1 checkpoints at most.

    python reliability/soak.py --checkpoints 1000
    python reliability/soak.py --hours 2 --pause 0.5

Every ten minutes, and when it is stopped by SIGINT or SIGTERM, the figure so far is said.
"""

import argparse
import gc
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from tiny import Hooks, ended_within, fork, kill, still_at_work, train_tiny

SLOPE_GOAL_MIB_PER_HOUR = 1.0
GROWTH_GOAL_MIB = 1.0
REPORT_SECONDS = 600.0
# Samples of one step after the other are alike; means of long stretches are independent enough for an interval.
STRETCHES = 20
_PAGE = os.sysconf("SC_PAGE_SIZE")


def work(folder: Path, samples: Path, steps: int, pause: float) -> None:
    """Train and save, and note what this process holds at each step."""
    began = time.monotonic()

    def report(record: dict[str, Any], _: int) -> None:
        if record["step"] == 2:
            # A long run comes to a full collection once in many hundred steps, and the first one maps 3 MiB of libraries.
            gc.collect()
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
        files = len(os.listdir("/proc/self/fd"))
        kept = len(os.listdir(folder / "checkpoints")) if record["step"] > 1 else 0
        with samples.open("a") as file:
            file.write(f"{time.monotonic() - began} {resident} {files} {kept}\n")
        still_at_work()
        time.sleep(pause)

    train_tiny(folder, Hooks(report=report), steps=steps, schedule="constant", keep_checkpoints=2)


def figure(samples: Path) -> tuple[str, bool]:
    """What the samples so far say, and whether it is what was promised: memory by the hour, open files, checkpoints."""
    seconds, resident, files, kept = np.loadtxt(samples, ndmin=2).T
    later = slice(len(seconds) // 4, None)  # the allocator's first growth is over
    hours_S, memory_S = (
        np.array([part.mean() for part in np.array_split(values[later], STRETCHES)])
        for values in (seconds / 3600, resident / 2**20)
    )
    line = stats.linregress(hours_S, memory_S)
    margin = float(stats.t.ppf(0.975, STRETCHES - 2)) * line.stderr
    growth = float(memory_S[-1] - memory_S[0])
    span = float(hours_S[-1] - hours_S[0])
    # A figure per hour from minutes is an extrapolation: a page or two of noise is many MiB an hour.
    flat = growth <= max(GROWTH_GOAL_MIB, SLOPE_GOAL_MIB_PER_HOUR * span)
    closed = bool(files[later].max() == files[later].min())
    words = (
        f"R16 soak: {len(seconds)} checkpoints in {seconds[-1]:.0f} s, resident memory {growth:+.2f} MiB over the last "
        f"three quarters, {line.slope:+.2f} MiB/h [{line.slope - margin:+.2f}, {line.slope + margin:+.2f}], open files "
        f"{int(files[later].min())} to {int(files[later].max())}, at most {int(kept.max())} checkpoints on disk"
    )
    return words, flat and closed and bool(kept.max() <= 3)


def soak(scratch: Path, checkpoints: int, hours: float, pause: float) -> tuple[str, bool]:
    """Run to so many checkpoints, or for so many hours where some are given, `pause` seconds between two."""
    folder, samples, log = scratch / "run", scratch / "samples", scratch / "log"
    pid = fork(lambda: work(folder, samples, 10**6 if hours else checkpoints, pause), log)
    deadline = time.monotonic() + hours * 3600 if hours else float("inf")
    stopped: list[int] = []
    before = [signal.signal(number, lambda n, _: stopped.append(n)) for number in (signal.SIGINT, signal.SIGTERM)]
    code, told = None, time.monotonic()
    while code is None and not stopped and time.monotonic() < deadline:
        code = ended_within(pid, 1.0)
        if time.monotonic() - told > REPORT_SECONDS:
            told = time.monotonic()
            print(figure(samples)[0], flush=True)
    if code is None:
        kill(pid)
        ended_within(pid, 10.0)
    assert code in (0, None), log.read_text()
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), before):
        signal.signal(number, handler)
    return figure(samples)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=int, default=1000)
    parser.add_argument("--hours", type=float, default=0.0)
    parser.add_argument("--pause", type=float, default=0.0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        words, held = soak(Path(scratch), asked.checkpoints, asked.hours, asked.pause)
    print(f"{words}: {'held' if held else 'FAILED'}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
