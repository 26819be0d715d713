"""Every drill in its short form, each in a fork of this process, which has imported what they need: what `make test` runs.

python reliability/short.py [NAME ...]
python reliability/short.py --asked    (by lines NAME<tab>FILE on stdin: what it says goes to FILE, and 1 or 0 to stdout)
"""

import faulthandler
import importlib
import sys
from pathlib import Path

from tiny import ended, ended_within, fork, kill, verdict

DRILLS = {
    "kill_sweep": ["--kills", "8"],
    "kill_each_syscall": ["--every", "20"],
    "corrupt": ["--cases", "48"],
    "preempt": ["--n", "4"],
    "nan_inject": ["--each", "2"],
    "disk_full": ["--sizes", "3"],
    "resume_matrix": ["--quick"],
    "rank_kill": ["--kills", "1"],
    "ranks_agree": ["--quick"],
    "changed": ["--every", "5"],
    "little_memory": ["--levels", "2"],
    "equivalence": ["--cuts", "6"],
    "row_invariants": ["--pairs", "1000"],
    "accounting": ["--files", "60"],
    "soak": ["--checkpoints", "40"],
    "security": ["--quick"],
    "sweep_kill": ["--kills", "1"],
    "page_drill": ["--events", "4000", "--seconds", "60", "--settle", "0"],
    "poison": ["--claims", "1000", "--rounds", "2"],
    "svc_kill": ["--kills", "1", "--any-start"],
    "svc_doors": ["--replays", "1000", "--seconds", "1", "--fuzz", "0"],
    "svc_disk_full": ["--rounds", "1"],
    "svc_ack": ["--requests", "20"],
    "svc_abuse": ["--slow", "20", "--healthy", "20", "--any-speed"],
}
# A plain save must fail where ours may not.
CONTRAST = {"corrupt plain": ["--cases", "48", "--plain"], "kill_sweep plain": ["--kills", "200", "--plain", "--first"]}
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
