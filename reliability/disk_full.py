"""R5: the disk fills during a save, at 20 sizes; or a call fails with EIO or EROFS. The last checkpoint stays good.

python reliability/disk_full.py --sizes 20      (needs root for a small file system, strace for failing calls)
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from ground import small_disk
from tiny import Hooks, differing, ended, fingerprint, fork, train_tiny, verdict

from evenhand.training.checkpoint import newest_checkpoint

DISK_MIB = 64
FULL = 74


def fills(disk: Path, share: float, wanted: dict[str, str], scratch: Path) -> bool:
    """Leave room for `share` of a checkpoint before the save of step 3; whether all that is promised holds."""
    folder = disk / "run"

    def report(record: dict[str, Any], _: int) -> None:
        if record["step"] == 3:
            size = sum(file.stat().st_size for file in (folder / "checkpoints" / "step-000002").iterdir())
            with (disk / "filler").open("wb") as filler:
                filler.write(bytes(max(0, shutil.disk_usage(disk).free - int(share * size))))

    log = scratch / "log"
    log.unlink(missing_ok=True)
    code = ended(fork(lambda: train_tiny(folder, Hooks(report=report)), log))
    said = log.read_text()
    found = newest_checkpoint(folder / "checkpoints")
    kept = found is not None and found.step == 2
    named = "step-000003" in said and "bytes with" in said
    (disk / "filler").unlink()
    same = ended(fork(lambda: train_tiny(folder), log)) == 0 and not differing(fingerprint(folder), wanted)
    if not (code == FULL and kept and named and same):
        print(f"share {share:.2f}: exit {code}, kept {kept}, named {named}, same {same}: {said}", flush=True)
    shutil.rmtree(folder)
    return code == FULL and kept and named and same


def fails(name: str, error: str, number: int, wanted: dict[str, str], scratch: Path) -> bool:
    """Let the `number`-th `name` call of the save of step 3 fail with `error`; whether all that is promised holds."""
    from kill_each_syscall import STEP, traced

    folder = scratch / "failing"
    shutil.rmtree(folder, ignore_errors=True)
    code, _ = traced(folder, ["-e", f"inject={name}:error={error}:when={number}"], scratch)
    found = newest_checkpoint(folder / "checkpoints")
    kept = found is not None and found.step >= STEP - 1
    same = ended(fork(lambda: train_tiny(folder), scratch / "log")) == 0
    same = same and not differing(fingerprint(folder), wanted)
    if not (code == FULL and kept and same):
        print(f"{name} {number} {error}: exit {code}, kept {kept}, same {same}", flush=True)
    return code == FULL and kept and same


def refused_at_the_start(disk: Path, scratch: Path) -> bool:
    """Room for less than two checkpoints: nothing is started, and the sentence has both figures."""
    filler = disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(disk).free - 3 * 2**20))
    log = scratch / "room.log"
    code = ended(fork(lambda: train_tiny(disk / "none"), log))
    filler.unlink()
    return code == 2 and "bytes free and two checkpoints need" in log.read_text()


def drill(sizes: int, scratch: Path) -> tuple[int, int]:
    """(cases in which everything held, cases)."""
    whole = scratch / "whole"
    assert ended(fork(lambda: train_tiny(whole), scratch / "whole.log")) == 0
    wanted = fingerprint(whole)
    with small_disk(scratch / "disk", DISK_MIB) as disk:
        held = [fills(disk, i / sizes * 0.999, wanted, scratch) for i in range(sizes)]
        held.append(refused_at_the_start(disk, scratch))
    if shutil.which("strace"):
        held += [
            fails(*case, wanted, scratch) for case in (("fsync", "EIO", 1), ("fsync", "EIO", 2), ("mkdir", "EROFS", 1))
        ]
        held += [fails(*case, wanted, scratch) for case in (("write", "EIO", 1), ("rename", "EROFS", 1))]
    return sum(held), len(held)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, default=20)
    asked = parser.parse_args()
    if os.geteuid():
        print("R5 disk full: skipped, only root can mount a small file system")
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        good, cases = drill(asked.sizes, Path(scratch))
    return verdict("R5 disk full", good, cases, f"cases ({asked.sizes} sizes, a refused start, failing calls) held")


if __name__ == "__main__":
    sys.exit(main())
