"""Every drill in its short form, in one process: what `make test` runs, in about a minute.

python reliability/short.py
"""

import importlib
import os
import sys

import tiny  # first, since it finds the sources

SHORT = {
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
    "soak": ["--checkpoints", "40"],
    "security": ["--quick"],
}
# A plain save must fail where ours may not; last, since it takes the place of ours.
CONTRAST = {"corrupt": ["--cases", "48", "--plain"], "kill_sweep": ["--kills", "30", "--plain"]}


def passed(name: str, options: list[str]) -> bool:
    """Whether the drill's own command would exit with 0."""
    print(f"--- {name} {' '.join(options)}", flush=True)
    sys.argv = [name, *options]
    before = os.environ.copy()
    try:
        return importlib.import_module(name).main() == 0
    finally:
        os.environ.clear()
        os.environ.update(before)


def main() -> int:
    good = sum(passed(*drill) for drill in SHORT.items())
    failed = sum(not passed(*drill) for drill in CONTRAST.items())
    print(f"contrast: {failed} of {len(CONTRAST)} drills tell a plain save from ours")
    return tiny.verdict("short drills", good + failed, len(SHORT) + len(CONTRAST), "as they should be")


if __name__ == "__main__":
    sys.exit(main())
