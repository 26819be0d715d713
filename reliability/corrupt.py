"""R4: damage to every file of the newest checkpoint; each must be seen, and the run must end with the same bits.

    python reliability/corrupt.py --cases 500 --seed 7 [--plain]

Every tenth case is resumed to its end; the others are asked which checkpoint they would go on from.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import plain
from tiny import differing, ended, fingerprint, fork, train_tiny, verdict

from evenhand.training.checkpoint import newest_checkpoint

Damage = Callable[[Path, Path, random.Random], object]


def flip(file: Path, _: Path, draw: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)


def cut(file: Path, _: Path, draw: random.Random) -> None:
    os.truncate(file, draw.randrange(file.stat().st_size))


def zero_a_page(file: Path, _: Path, draw: random.Random) -> None:
    content = bytearray(file.read_bytes())
    start = draw.randrange(max(1, len(content) - 4096))
    while not any(content[start : start + 4096]):
        start = draw.randrange(max(1, len(content) - 4096))
    content[start : start + 4096] = bytes(len(content[start : start + 4096]))
    file.write_bytes(content)


def add_a_file(file: Path, _: Path, draw: random.Random) -> None:
    (file.parent / f"{draw.randrange(10**6)}.safetensors").write_bytes(file.read_bytes())


DAMAGE: dict[str, Damage] = {
    "one bit flipped": flip,
    "one bit flipped, again": flip,
    "truncated": cut,
    "a page of zeros": zero_a_page,
    "grown by a byte": lambda file, _, draw: file.open("ab").write(bytes([draw.randrange(256)])),
    "deleted": lambda file, *_: file.unlink(),
    "a file added": add_a_file,
    "swapped with the step before": lambda file, other, _: shutil.copy(other / file.name, file),
}


def damage_all(cases: int, seed: int, scratch: Path, naive: bool = False) -> tuple[int, int]:
    """(cases seen and survived, cases)."""
    if naive:
        plain.install()
    draw = random.Random(seed)
    whole = scratch / "whole"
    assert ended(fork(lambda: train_tiny(whole, keep_checkpoints=2), scratch / "whole.log")) == 0
    wanted = {} if naive else fingerprint(whole)
    steps = sorted((whole / "checkpoints").glob("step-*"))
    names = sorted(file.name for file in steps[-1].iterdir())
    seen = 0
    for case in range(cases):
        kind = list(DAMAGE)[case % len(DAMAGE)]
        folder = scratch / "case"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        newest, before = (folder / "checkpoints" / step.name for step in (steps[-1], steps[-2]))
        name = names[(case // len(DAMAGE)) % len(names)]
        DAMAGE[kind](newest / name, before, draw)
        ok = noticed(folder, before.name, naive)
        if ok and not naive and case % 10 == 0:
            code = ended(fork(lambda: train_tiny(folder), scratch / "case.log"))
            ok = code == 0 and not differing(fingerprint(folder), wanted)
        seen += ok
        if not ok and not naive:
            print(f"case {case}: {kind} of {name} was not seen", flush=True)
    return seen, cases


def noticed(folder: Path, good: str, naive: bool) -> bool:
    """Whether the damaged checkpoint is left for the one before it; the plain way can at best fail to read it."""
    if not naive:
        found = newest_checkpoint(folder / "checkpoints")
        return found is not None and found.folder.name == good
    try:
        found = plain.newest(folder / "checkpoints")
        assert found is not None
        return not all(tensor.isfinite().all() for tensor in found.tensors().values())
    except Exception:
        return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--plain", action="store_true", help="the contrast: save in place, no manifest")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        seen, cases = damage_all(asked.cases, asked.seed, Path(scratch), asked.plain)
    return verdict("R4 corruption", seen, cases, "cases seen")


if __name__ == "__main__":
    sys.exit(main())
