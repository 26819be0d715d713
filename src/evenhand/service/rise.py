"""Has a rate risen, and since when: counts in the order in which drafts came, and the likeliest moment of a rise.

For every possible start the counts before and after it are compared by the likelihood ratio of two binomial rates
against one. Its largest value over all starts hardly depends on the rate or on how much came before (measured: rates
from 0.1 % to 30 %, from 0.05 to 2.5 times the watched drafts before them), so that one law gives the chance that chance
alone brings it to a threshold, and its inverse the threshold for a chance.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import xlogy

from evenhand.service.sequence import Tally

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# The law: log(chance) = _LEVEL - _SLOPE * threshold for a quiet period cut into STEPS steps and looked at after each,
# with rises below RISE left aside. Fitted to 24,000 simulated periods at thresholds from 6 to 11 (docs/monitor.md).
_LEVEL, _SLOPE = 3.7, 0.906
STEPS = 200
_LONGEST = 2 * STEPS


@dataclass(frozen=True, slots=True)
class Rise:
    """The likeliest rise: counts before it and since, and the log-likelihood ratio that speaks for it."""

    before: Tally
    since: Tally
    evidence: float

    @property
    def ratio(self) -> float:
        """The rate since over the rate before."""
        return self.since.rate / self.before.rate if self.before.rate else math.inf


@dataclass(slots=True)
class Series:
    """The counts of one rate in the order in which they came, in steps of so many trials.

    What is older than 400 steps is kept as one count, from which no rise can start.
    """

    older: Tally = field(default_factory=lambda: Tally(0, 0))
    hits: list[int] = field(default_factory=list)
    trials: list[int] = field(default_factory=list)

    def add(self, tally: Tally, step: int) -> None:
        """Add what came; a step is full at `step` trials."""
        if not self.trials or self.trials[-1] >= step:
            self.hits.append(0)
            self.trials.append(0)
        self.hits[-1] += tally.hits
        self.trials[-1] += tally.trials
        if len(self.trials) > _LONGEST:
            self.older += Tally(self.hits.pop(0), self.trials.pop(0))

    def json(self) -> dict[str, Any]:
        """The series as it is kept."""
        return {"older": [self.older.hits, self.older.trials], "hits": self.hits, "trials": self.trials}

    @property
    def total(self) -> Tally:
        """Everything that came."""
        return self.older + Tally(sum(self.hits), sum(self.trials))

    def last(self, trials: int) -> Tally:
        """The latest steps, as few as hold `trials` trials."""
        tally = Tally(0, 0)
        for hit, tried in zip(reversed(self.hits), reversed(self.trials), strict=True):
            if tally.trials >= trials:
                break
            tally += Tally(hit, tried)
        return Tally(min(tally.hits, tally.trials), tally.trials)

    def sharpest_rise(self, fewest_before: int, least_ratio: float) -> Rise | None:
        """The start that the counts speak for most, of those with enough before and a rise of at least that ratio."""
        trials_T, hits_T = np.array(self.trials, np.int64), np.array(self.hits, np.int64)
        after_T, won_T = trials_T[::-1].cumsum()[::-1], hits_T[::-1].cumsum()[::-1]
        total = self.total
        before_T, won_before_T = total.trials - after_T, total.hits - won_T
        # Hits may come later than their drafts, or twice for one, but no rate is above 1.
        won_T, won_before_T = np.minimum(won_T, after_T), np.minimum(won_before_T, before_T)
        possible_T = (before_T >= max(1, fewest_before)) & (after_T > 0)
        possible_T &= won_T * before_T.astype(np.float64) >= least_ratio * won_before_T * after_T.astype(np.float64)
        possible_T &= won_T > 0
        if not possible_T.any():
            return None
        one_T = _log_likelihood(won_T + won_before_T, after_T + before_T)
        ratio_T = _log_likelihood(won_T, after_T) + _log_likelihood(won_before_T, before_T) - one_T
        at = int(np.where(possible_T, ratio_T, -np.inf).argmax())
        before, since = Tally(int(won_before_T[at]), int(before_T[at])), Tally(int(won_T[at]), int(after_T[at]))
        return Rise(before, since, float(ratio_T[at]))


def series_of(value: Mapping[str, Any]) -> Series:
    """A series back from its JSON."""
    return Series(Tally(*value["older"]), list(value["hits"]), list(value["trials"]))


def threshold(chance: float) -> float:
    """The evidence that chance alone reaches with that probability in a quiet period of STEPS steps."""
    return (_LEVEL - math.log(chance)) / _SLOPE


def chance(threshold: float) -> float:
    """How probable it is that chance alone reaches a threshold in a quiet period of STEPS steps."""
    return min(1.0, math.exp(_LEVEL - _SLOPE * threshold))


def _log_likelihood(hits_T: Integers, trials_T: Integers) -> Floats:
    """The log-likelihood of each count at its own rate."""
    won_T, lost_T = hits_T.astype(np.float64), (trials_T - hits_T).astype(np.float64)
    return np.asarray(xlogy(won_T, won_T) + xlogy(lost_T, lost_T) - xlogy(won_T + lost_T, won_T + lost_T))
