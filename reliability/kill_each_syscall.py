"""R2: SIGKILL at every file-system call of one step with its save; each must go on to the end with the same bits.

    python reliability/kill_each_syscall.py [--every 1]

strace lists the calls of one such step, by thread and name, and then kills at each of them in turn.
"""

import argparse
import collections
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tiny import Hooks, differing, ended, fingerprint, fork, train_tiny, verdict

STEP = 3
_CALLS = "%file,write,pwrite64,fsync,fdatasync,ftruncate,fallocate,close,mmap"
_LINE = re.compile(r"^(?:\[pid +)?(\d+)\]? +(\w+)\(")


def traced(folder: Path, options: list[str], scratch: Path) -> tuple[int, str]:
    """Run `folder` to its end with strace on step `STEP` alone; the exit code, and what strace wrote."""
    ask, told = os.pipe()
    ready, go = os.pipe()

    def report(record: dict[str, Any], _: int) -> None:
        if record["step"] == STEP:  # its journal line is written, its checkpoint is not
            os.write(told, b".")
            os.read(ready, 1)
        if record["step"] == STEP + 1:
            os._exit(99)  # far enough: the save of STEP is over

    pid = fork(lambda: train_tiny(folder, Hooks(report=report)), scratch / "child.log")
    os.close(told)  # so that a child that ends early is read as an end, and not waited for
    os.close(ready)
    os.read(ask, 1)
    out = scratch / "strace.txt"
    out.unlink(missing_ok=True)
    tracer = subprocess.Popen(
        ["strace", "-f", "-o", str(out), "-p", str(pid), "-e", f"trace={_CALLS}", *options], stderr=subprocess.PIPE
    )
    assert tracer.stderr is not None
    tracer.stderr.readline()  # "attached"
    os.write(go, b".")
    code = ended(pid)
    tracer.wait(timeout=30)
    for handle in (ask, go):
        os.close(handle)
    return code, out.read_text(errors="replace")


def calls_of_one_save(start: Path, scratch: Path) -> list[tuple[str, int]]:
    """(name, how manieth) of every call between the journal's line and the next step."""
    folder = scratch / "listed"
    shutil.copytree(start, folder)
    code, text = traced(folder, [], scratch)
    assert code == 99, (code, (scratch / "child.log").read_text())
    most: collections.Counter[str] = collections.Counter()
    for (_, name), count in collections.Counter(
        match.groups() for line in text.splitlines() if (match := _LINE.match(line))
    ).items():
        most[name] = max(most[name], count)  # strace counts the calls of each thread apart
    return [(name, number) for name in sorted(most) for number in range(1, most[name] + 1)]


def strike(scratch: Path, every: int = 1) -> tuple[int, int]:
    """(points after which the run ended with the same bits, points)."""
    start, whole = scratch / "start", scratch / "whole"
    assert ended(fork(lambda: train_tiny(whole), scratch / "child.log")) == 0
    wanted = fingerprint(whole)

    def stop(record: dict[str, Any], _: int) -> None:
        if record["step"] == STEP:
            os._exit(99)

    assert ended(fork(lambda: train_tiny(start, Hooks(report=stop)), scratch / "child.log")) == 99
    points = calls_of_one_save(start, scratch)[::every]
    good = 0
    for name, number in points:
        folder = scratch / "struck"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(start, folder)
        code, _ = traced(folder, ["-e", f"inject={name}:signal=KILL:when={number}"], scratch)
        again = ended(fork(lambda: train_tiny(folder), scratch / "child.log"))
        same = again == 0 and not differing(fingerprint(folder), wanted)
        good += same
        print(f"{name} {number}: ended with {code}, then {'the same bits' if same else 'LOST'}", flush=True)
    return good, len(points)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="only every so manieth point")
    asked = parser.parse_args()
    if shutil.which("strace") is None:
        print("R2 kill at each call: skipped, strace is not installed")
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        good, points = strike(Path(scratch), asked.every)
    return verdict("R2 kill at each call", good, points, "file-system calls of one save survived")


if __name__ == "__main__":
    sys.exit(main())
