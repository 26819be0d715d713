"""R1: SIGKILL at random moments of runs that save every step; each must go on to the end with the same bits.

python reliability/kill_sweep.py --kills 300 --seed 5 [--plain [--first]]
"""

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import plain
from tiny import QUICK, differing, ended, ended_within, fingerprint, fork, kill, train_tiny, verdict


def sweep(kills: int, seed: int, scratch: Path, naive: bool = False, first: bool = False) -> tuple[int, int, int]:
    """(kills whose run ended with the same bits, kills, differing bits of names) over as many runs as that takes.

    With `first` it ends with the first run that is lost.
    """
    if naive:
        plain.install()
    draw = random.Random(seed)
    began = time.monotonic()
    whole = scratch / "whole"
    assert ended(fork(lambda: train_tiny(whole), scratch / "whole.log")) == 0
    length = time.monotonic() - began
    wanted = final(whole, naive)
    good = done = different = runs = 0
    while done < kills and not (first and different):
        runs += 1
        folder = scratch / f"run-{runs}"
        struck, survived = kill_until_done(folder, length, min(kills - done, 10), draw)
        found = final(folder, naive) if survived else {}
        lost = differing(found, wanted)
        good += struck if not lost else 0
        different += len(lost)
        done += struck
        print(
            f"run {runs}: {struck} kills, {'dead' if not survived else f'{len(lost)} differ'}; {good} of {done}",
            flush=True,
        )
        os.system(f"rm -rf '{folder}'") if not lost else None
    return good, done, different


def kill_until_done(folder: Path, length: float, most: int, draw: random.Random) -> tuple[int, bool]:
    """Start, kill and start again, up to `most` kills, then let it end; (kills, whether it ended well)."""
    struck = 0
    while struck < most:
        pid = fork(lambda: train_tiny(folder), folder.with_suffix(".log"))
        code = ended_within(pid, draw.uniform(0.05, 0.6) * length)
        if code is None:
            kill(pid)
            ended(pid)
            struck += 1
        elif code == 0:
            return struck, True
        else:
            return max(struck, 1), False
    return struck, ended(fork(lambda: train_tiny(folder), folder.with_suffix(".log"))) == 0


def final(folder: Path, naive: bool) -> dict[str, str]:
    """The bits that a finished run is judged by."""
    if not naive:
        return fingerprint(folder)
    from safetensors.torch import load_file
    from tiny import _hash

    file = folder / "checkpoints" / f"step-{QUICK['steps']:06d}" / "state.safetensors"
    return {name: _hash(tensor.numpy().tobytes()) for name, tensor in load_file(file).items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--plain", action="store_true", help="the contrast: save in place, no manifest")
    parser.add_argument("--first", action="store_true", help="end with the first run that is lost")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        good, done, different = sweep(asked.kills, asked.seed, Path(scratch), asked.plain, asked.first)
    return verdict("R1 kill sweep", good, done, f"kills survived, {different} differing names")


if __name__ == "__main__":
    sys.exit(main())
