"""Every drill of training in its long form, two at a time; then those that need the machine alone. Prints figures and times.

python reliability/long.py [--watching] [--only NAME ...] [--jobs 2]

`--watching` runs the drills of the sweep, the registry, the gate, the service and the alarms in their place.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from ground import verdict  # first, since it finds the sources

TRAINING = {
    "resume_matrix": "",
    "kill_each_syscall": "",
    "kill_sweep": "--kills 300 --seed 5",
    "row_invariants": "--pairs 20000",
    "accounting": "--files 1000",
    "little_memory": "--levels 10",
    "soak": "--checkpoints 1000",
    "corrupt": "--cases 500",
    "preempt": "--n 50",
    "changed": "",
    "disk_full": "--sizes 20",
    "nan_inject": "",
    "equivalence": "",
    "ranks_agree": "",
    "security": "",
    "rank_kill": "--kills 10",
    "save_cost": "--rounds 3",
}
WATCHING = {
    "sweep_kill": "--kills 20",
    "registry_kill": "--kills 100 --races 20 --seed 5",
    "gate_drill": "--pairs 16 --steps 3",
    "poison": "--claims 3000 --rounds 20",
    "alarm_drill": "--quarters 100 --rises 100",
    "late_outcomes": "--runs 20",
    "svc_detect": "--rises 20 --quarters 10",
    "svc_kill": "--kills 100",
    "svc_disk_full": "--rounds 5",
    "svc_ack": "--requests 200",
    "svc_doors": "--replays 10000 --seconds 10 --fuzz 200",
    "page_drill": "--events 10000000",
    "svc_abuse": "--slow 100",
    "svc_load": "--seconds 20 --clients 32",
}
# What they promise is a time.
ALONE = {"rank_kill", "save_cost", "svc_doors", "page_drill", "svc_abuse", "svc_load"}


@dataclass(frozen=True, slots=True)
class Ended:
    """A drill that came to its end: what it printed last, and how long it took."""

    name: str
    passed: bool
    figure: str
    seconds: float


def drilled(name: str, options: str, logs: Path) -> Ended:
    """Run one drill in a process of its own; all that it says is kept in `logs`."""
    start, log = time.monotonic(), logs / f"{name}.log"
    with log.open("w", encoding="utf-8") as out:
        command = [sys.executable, str(Path(__file__).with_name(f"{name}.py")), *options.split()]
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False)
    said = log.read_text(encoding="utf-8").strip().splitlines() or [f"nothing, and left with {done.returncode}"]
    return Ended(name, done.returncode == 0, said[-1], time.monotonic() - start)


def all_drilled(drills: dict[str, str], jobs: int, logs: Path) -> Iterator[Ended]:
    """Each drill as it ends: several at a time, and then one by one those whose promise is a time."""
    for names, at_once in (([n for n in drills if n not in ALONE], jobs), ([n for n in drills if n in ALONE], 1)):
        with ThreadPoolExecutor(at_once) as pool:
            for one in as_completed([pool.submit(drilled, name, drills[name], logs) for name in names]):
                yield one.result()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--watching", action="store_true", help="the drills of what watches, not of training")
    parser.add_argument("--only", nargs="+", choices=sorted(TRAINING | WATCHING), help="these alone")
    parser.add_argument("--jobs", type=int, default=2, help="drills at a time")
    asked = parser.parse_args()
    drills = WATCHING if asked.watching else TRAINING
    drills = {name: (TRAINING | WATCHING)[name] for name in asked.only} if asked.only else drills
    logs, start, good = Path(tempfile.mkdtemp(prefix="drills-")), time.monotonic(), 0
    print(f"{len(drills)} drills, {asked.jobs} at a time; what they say is in {logs}", flush=True)
    for one in all_drilled(drills, asked.jobs, logs):
        good += one.passed
        print(f"{'passed' if one.passed else 'FAILED'} {one.name} in {one.seconds:.0f} s: {one.figure}", flush=True)
    return verdict("long drills", good, len(drills), f"passed in {(time.monotonic() - start) / 60:.1f} minutes")


if __name__ == "__main__":
    sys.exit(main())
