"""R16: a long run that saves every step; memory and open files stay flat, the disk holds keep + 1 checkpoints at most.

python reliability/soak.py --checkpoints 1000     or     --hours 2
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from tiny import Hooks, ended, fork, read_journal, train_tiny

SLOPE_GOAL_MIB = 1.0
_PAGE = os.sysconf("SC_PAGE_SIZE")


def soak(checkpoints: int, hours: float | None, folder: Path, samples: Path) -> None:
    """Run until both are reached, or one where the other is not given, and note what this process holds at each step."""
    began = time.monotonic()

    def report(record: dict[str, Any], _: int) -> None:
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
        files, kept = (
            len(os.listdir("/proc/self/fd")),
            len(os.listdir(folder / "checkpoints")) if record["step"] > 1 else 0,
        )
        with samples.open("a") as file:
            file.write(f"{time.monotonic() - began} {resident} {files} {kept}\n")
        if hours is not None and time.monotonic() - began > hours * 3600:
            os._exit(0)

    steps = checkpoints if hours is None else 10**7
    train_tiny(folder, Hooks(report=report), steps=steps, schedule="constant", keep_checkpoints=2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=int, default=1000)
    parser.add_argument("--hours", type=float)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder, samples = Path(scratch) / "run", Path(scratch) / "samples"
        log = Path(scratch) / "log"
        code = ended(fork(lambda: soak(asked.checkpoints, asked.hours, folder, samples), log))
        assert code == 0, log.read_text()
        steps = read_journal(folder / "journal.jsonl")[-1]["step"]
        seconds, resident, files, kept = np.loadtxt(samples).T
    later = slice(len(seconds) // 4, None)  # the allocator's first growth is over
    slope = np.polyfit(seconds[later] / 3600, resident[later] / 2**20, 1)[0]
    growth = (np.median(resident[-50:]) - np.median(resident[later][:50])) / 2**20
    flat = bool(files[later].max() == files[later].min())
    # A figure per hour from minutes is an extrapolation: a page or two of noise is many MiB an hour.
    hours = (seconds[-1] - seconds[later][0]) / 3600
    good = growth <= max(SLOPE_GOAL_MIB * hours, 1.0) and flat and kept.max() <= 3
    print(
        f"R16 soak: {steps} checkpoints in {seconds[-1]:.0f} s, resident memory {growth:+.2f} MiB over the last three "
        f"quarters (slope {slope:+.1f} MiB/h), open files {int(files[later].min())} to {int(files[later].max())}, at most "
        f"{int(kept.max())} checkpoints on disk: {'held' if good else 'FAILED'}"
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
