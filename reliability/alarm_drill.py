"""False alarms and the delay of true ones, as the service itself raises them: simulated drafts go into its roll-ups.

    python reliability/alarm_drill.py --quarters 100 --rises 100

A quarter is 20,000 quiet drafts after 10,000, a rise is takeover going from 8 to 12 % after 10,000; the default policy
looks every 100 drafts. Passed where at most one quarter in twenty raised any alarm and the median delay is 1,500 or less.
"""

import argparse
import sys
import time
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests" / "service")]

import numpy as np
from quiet_traffic import RATES, batches, pour

from evenhand.service.place import open_database
from evenhand.service.lookout import Lookout
from evenhand.service.policy import Policy
from evenhand.service.store import Store

EVERY = Policy().look_drafts
WORSE = {**RATES, "takeover": 0.12}


class Period:
    """One store with a history of 10,000 drafts, and its lookout."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.database = open_database(str(folder / f"{seed}.db"))
        self.store = Store(self.database)
        self.lookout = Lookout(self.store, Policy(), lambda: 0)
        for day in range(100):
            pour(self.store, batches(self.rng, 100), f"2026-{8 + day // 30:02d}-{1 + day % 30:02d}")
        self.lookout.look()

    def goes_on(self, rates: dict[str, float]) -> list:
        """What opened in the next few drafts."""
        pour(self.store, batches(self.rng, EVERY, rates), "2026-12-24")
        return [notice for notice in self.lookout.look() if notice.what == "opened"]


def quiet_quarter(folder: Path, seed: int) -> bool:
    """Whether any alarm opened in 20,000 quiet drafts."""
    period = Period(folder, seed)
    opened = sum(len(period.goes_on(RATES)) for _ in range(20_000 // EVERY))
    period.database.close()
    return opened > 0


def delay(folder: Path, seed: int) -> int:
    """Drafts until the alarm over all drafts for takeover opens."""
    period = Period(folder, seed)
    drafts, found = 0, False
    while not found and drafts < 20_000:
        drafts += EVERY
        found = any((notice.signal, notice.category) == ("takeover", None) for notice in period.goes_on(WORSE))
    period.database.close()
    return drafts


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quarters", type=int, default=100)
    parser.add_argument("--rises", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    began = time.monotonic()
    with TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as scratch:
        folder, alarmed = Path(scratch), 0
        for seed in range(given.quarters):
            alarmed += quiet_quarter(folder, given.seed + seed)
            print(f"quiet quarters with an alarm: {alarmed} of {seed + 1}", flush=True)
        delays = [delay(folder, 500_000 + given.seed + seed) for seed in range(given.rises)]
    found = f"median {median(delays):,.0f} of {len(delays)}"
    if len(delays) > 9:
        tenths = quantiles(delays, n=10)
        found += f", 10th to 90th percentile {tenths[0]:,.0f} to {tenths[-1]:,.0f}"
    print(f"drafts until a rise is found: {found}; {time.monotonic() - began:.0f} s")
    passed = alarmed <= max(1, given.quarters / 20) and median(delays) <= 1500
    print(f"alarm drill: {alarmed} of {given.quarters} quiet quarters, median delay {median(delays):,.0f} drafts")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
