"""What outcomes that come hours after their drafts do to the alarms, by how late they are and how often is looked.

    python reliability/late_outcomes.py --runs 20

A run is 40 quiet days after 17 to begin with, some 600 drafts a day from 8 to 18 o'clock, 8 % of them taken over (5 % in
three categories, 20 % in the two smallest), each after a random time (exponential). Passed where no run that looks once a
day's drafts, with four hours on average, opened an alarm.
"""

import argparse
import sys
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src")]

import numpy as np
import numpy.typing as npt

from evenhand.service.alarm import Batch, Watch
from evenhand.service.policy import Policy

DAYS, A_DAY = 57, 600
SHARES = (0.35, 0.25, 0.20, 0.12, 0.08)
RATES = (0.05, 0.05, 0.05, 0.20, 0.20)
RISE = 1.5
RISES_AT = 12_000


def batches(seed: int, lag_hours: float, look: int, rise: float = 1.0) -> list[list[Batch]]:
    """What each look finds: drafts and takeovers that came since the last; rates are `rise` times theirs after RISES_AT."""
    rng = np.random.default_rng(seed)
    hours = np.concatenate([day * 24 + 8 + np.sort(rng.uniform(0, 10, rng.poisson(A_DAY))) for day in range(DAYS)])
    category = rng.choice(len(SHARES), len(hours), p=SHARES)
    rates = np.array(RATES)[category] * np.where(np.arange(len(hours)) < RISES_AT, 1.0, rise)
    taken = rng.random(len(hours)) < rates
    late = hours[taken] + rng.exponential(lag_hours, taken.sum())
    order = np.argsort(late)
    seen_by = np.searchsorted(late[order], hours[look - 1 :: look], side="right")
    outcomes = np.split(category[taken][order], seen_by)
    drafts = [category[at : at + look] for at in range(0, len(hours) - look + 1, look)]
    return [_batches(own, came) for own, came in zip(drafts, outcomes)]


def _batches(drafts: npt.NDArray[np.int64], outcomes: npt.NDArray[np.int64]) -> list[Batch]:
    came = zip(np.bincount(drafts, minlength=len(SHARES)), np.bincount(outcomes, minlength=len(SHARES)))
    return [Batch(f"category-{at}", int(own), 0, {"takeover": int(hits)}) for at, (own, hits) in enumerate(came)]


def false_alarms(seed: int, lag_hours: float, look: int) -> int:
    """How many alarms opened, all drafts and categories together."""
    watch, opened = Watch(Policy(look_drafts=look)), 0
    for came in batches(seed, lag_hours, look):
        watch.add(came)
        opened += sum(notice.what == "opened" for notice in watch.look())
    return opened


def delay(seed: int, lag_hours: float, look: int) -> int:
    """Drafts from the rise until the alarm over all drafts opened."""
    watch = Watch(Policy(look_drafts=look))
    for at, came in enumerate(batches(seed, lag_hours, look, RISE), start=1):
        watch.add(came)
        if at * look > RISES_AT and any(own.what == "opened" and own.category is None for own in watch.look()):
            return at * look - RISES_AT
    return DAYS * A_DAY


def main() -> int:
    """Every lag and look, and whether the last is passed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=20)
    runs = parser.parse_args().runs
    found = {}
    for look in (100, A_DAY):
        for lag in (0.5, 1.0, 2.0, 4.0):
            found[look, lag] = [false_alarms(seed, lag, look) for seed in range(runs)]
            low, high = min(found[look, lag]), max(found[look, lag])
            print(f"looks every {look}, {lag:g} h late: {low} to {high} alarms a run, {runs} runs")
        delays = [delay(seed, 4.0, look) for seed in range(runs)]
        print(f"looks every {look}, 4 h late, 8 to 12 %: found after {median(delays):,.0f} drafts in the median")
    return int(any(found[A_DAY, 4.0]))


if __name__ == "__main__":
    sys.exit(main())
