"""Every drill in its short form, each in a fork of this process, which has imported what they need.

python reliability/forks.py [NAME ...]
python reliability/forks.py --asked    (by lines NAME<tab>FILE on stdin: what it says goes to FILE, and 1 or 0 to stdout)
"""

import faulthandler
import importlib
import sys
from pathlib import Path

from tiny import ended, ended_within, fork, kill, verdict

from short import CONTRAST, DRILLS

SECONDS = 300


def as_it_should_be(name: str) -> bool:
    """Run one drill in this process: whether it is passed, or failed where a plain save is drilled."""
    options = (DRILLS | CONTRAST)[name]
    sys.argv = [name, *options]
    passed = importlib.import_module(name.removesuffix(" plain")).main() == 0
    return passed == (name in DRILLS)


def drilled(name: str, said: Path) -> bool:
    """Whether a drill in a fork of this process ends as it should, within `SECONDS`; its words go to `said`."""

    def work() -> None:
        # A fork of this one would wait for the thread that watches over this one, and has it not.
        faulthandler.cancel_dump_traceback_later()
        assert as_it_should_be(name), f"{name} should have ended otherwise"

    pid = fork(work, said)
    code = ended_within(pid, SECONDS)
    if code is None:
        kill(pid)
        ended(pid)
    return code == 0


def main() -> int:
    if sys.argv[1:] == ["--asked"]:
        for line in sys.stdin:
            name, said = line.rstrip("\n").split("\t")
            print(int(drilled(name, Path(said))), flush=True)
        return 0
    names = sys.argv[1:] or [*DRILLS, *CONTRAST]
    good = 0
    for name in names:
        print(f"--- {name}", flush=True)
        good += drilled(name, Path("/dev/stdout"))
    return verdict("short drills", good, len(names), "as they should be")


if __name__ == "__main__":
    sys.exit(main())
