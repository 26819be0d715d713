"""Intervals that may be looked at any time: each holds the truth at all counts at once with probability 1 - alpha.

An interval of fixed size is right 95 times in 100 if one looks once; a page is looked at every day. Each interval here is
the set of values against which the evidence has never reached 1/alpha. The evidence is a mixture of likelihood ratios,
which starts at 1 and is not expected to grow where the value is the true one, so that Ville's inequality bounds how often
it ever does (Robbins 1970; Howard, Ramdas, McAuliffe, Sekhon 2021). Events are taken as independent.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import betaln, xlog1py, xlogy

from evenhand.figure import Figure

ALPHA = 0.05

Floats = npt.NDArray[np.float64]
Counts = npt.ArrayLike

# The mixture for rates is Jeffreys' Beta(1/2, 1/2). That for means is as strong as so many observations, which makes its
# interval tightest at about eight times as many.
_PRIOR = 0.5
_MIXING = 120
_FEWEST_FOR_A_MEAN = 200
_HALVINGS = 50


@dataclass(frozen=True, slots=True)
class Tally:
    """`hits` of `trials`: what a rate is made of."""

    hits: int
    trials: int

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.hits + other.hits, self.trials + other.trials)

    @property
    def rate(self) -> float:
        """The share of hits, 0 where nothing was tried."""
        return self.hits / self.trials if self.trials else 0.0


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, sum and sum of squares of some values: what a mean and its spread are made of."""

    n: int
    total: float
    squares: float

    @property
    def mean(self) -> float:
        """The mean; 0 of nothing."""
        return self.total / self.n if self.n else 0.0

    @property
    def variance(self) -> float:
        """The variance over n."""
        return max(0.0, self.squares / self.n - self.mean**2) if self.n else 0.0


def evidence(rate: npt.ArrayLike, hits: Counts, trials: Counts) -> Floats:
    """Log evidence against each `rate` after `hits` of `trials`: the beta-binomial mixture over that rate's likelihood.

    >>> round(float(evidence(0.5, 10, 10)), 2)
    5.2
    """
    won, lost = np.asarray(hits, np.float64), np.asarray(trials, np.float64) - np.asarray(hits, np.float64)
    mixed = betaln(won + _PRIOR, lost + _PRIOR) - betaln(_PRIOR, _PRIOR)
    return np.asarray(mixed - xlogy(won, rate) - xlog1py(lost, -np.asarray(rate, np.float64)))


def rate(tally: Tally, alpha: float = ALPHA) -> Figure:
    """A rate with the interval that holds at every count.

    >>> rate(Tally(80, 1000)).words(percent=True, digits=1)
    '8.0 % [5.2, 11.5] n=1000'
    """
    if tally.trials == 0:
        return Figure(None, 0)
    enough = math.log(1 / alpha)

    def refuted(value: float) -> bool:
        return bool(evidence(value, tally.hits, tally.trials) >= enough)

    low, high = _reach(refuted, tally.rate, 0.0), _reach(refuted, tally.rate, 1.0)
    return Figure(tally.rate, tally.trials, low, high)


def rate_difference(first: Tally, second: Tally, alpha: float = ALPHA) -> Figure:
    """The rate of `first` minus that of `second`, whatever share of the traffic each was given and however it changed.

    The product of the two rates' evidence is evidence too, as each draft moves only its own factor; the interval holds
    every difference for which some pair of rates is not refuted (Turner and Gruenwald 2023, projected).

    >>> rate_difference(Tally(240, 2000), Tally(160, 2000)).words(percent=True, digits=1)
    '4.0 % [-0.4, 8.5] n=4000'
    """
    count = first.trials + second.trials
    if first.trials == 0 or second.trials == 0:
        return Figure(None, count)
    value, enough = first.rate - second.rate, math.log(1 / alpha)

    def refuted(difference: float) -> bool:
        return _least_evidence(difference, first, second) >= enough

    return Figure(value, count, _reach(refuted, value, -1.0), _reach(refuted, value, 1.0))


def mean(moments: Moments, alpha: float = ALPHA) -> Figure:
    """A mean of values without bounds; no interval below 200 or where nothing varies, as it rests on the central limit.

    The normal mixture with the variance estimated: an asymptotic confidence sequence (Waudby-Smith, Arbour, Sinha,
    Kennedy and Ramdas 2024, theorem 2.2).
    """
    if moments.n == 0:
        return Figure(None, 0)
    if moments.n < _FEWEST_FOR_A_MEAN or moments.variance == 0:
        return Figure(moments.mean, moments.n)
    half = math.sqrt((math.log(1 / alpha) + _cost(moments.n)) * _slack(moments))
    return Figure(moments.mean, moments.n, moments.mean - half, moments.mean + half)


def mean_difference(first: Moments, second: Moments, alpha: float = ALPHA) -> Figure:
    """The mean of `first` minus that of `second` under any split of the traffic; no interval where one side has none."""
    count = first.n + second.n
    if first.n == 0 or second.n == 0:
        return Figure(None, count)
    value = first.mean - second.mean
    if min(first.n, second.n) < _FEWEST_FOR_A_MEAN or 0 in (first.variance, second.variance):
        return Figure(value, count)
    cost = _cost(first.n) + _cost(second.n)
    half = math.sqrt((math.log(1 / alpha) + cost) * (_slack(first) + _slack(second)))
    return Figure(value, count, value - half, value + half)


def median_ranks(n: int, alpha: float = ALPHA) -> tuple[int, int] | None:
    """The 0-based order statistics between which the median lies at every count; None while there are too few.

    How many values lie below the true median is a fair coin's count, so ranks at which a fair coin is refuted are out
    (Howard and Ramdas 2022).
    """
    below = np.arange(n // 2 + 1)
    possible = np.flatnonzero(evidence(0.5, below, n) < math.log(1 / alpha))
    first = int(possible[0])
    return (first - 1, n - first) if first > 0 else None


def _least_evidence(difference: float, first: Tally, second: Tally) -> float:
    """The evidence against the pair of rates at that difference that is refuted least; it is convex in the rate."""
    mixed = sum(betaln(t.hits + _PRIOR, t.trials - t.hits + _PRIOR) - betaln(_PRIOR, _PRIOR) for t in (first, second))

    def unlikely(rate: float) -> float:
        return -_log_likelihood(rate + difference, first) - _log_likelihood(rate, second)

    low, high = max(0.0, -difference), min(1.0, 1.0 - difference)
    golden = (math.sqrt(5) - 1) / 2
    for _ in range(_HALVINGS):
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if unlikely(left) <= unlikely(right) else (left, high)
    return float(mixed) + unlikely((low + high) / 2)


def _log_likelihood(rate: float, tally: Tally) -> float:
    lost = tally.trials - tally.hits
    if (tally.hits and rate <= 0) or (lost and rate >= 1):
        return -math.inf
    return (tally.hits * math.log(rate) if tally.hits else 0.0) + (lost * math.log1p(-rate) if lost else 0.0)


def _reach(refuted: Callable[[float], bool], start: float, end: float) -> float:
    """The farthest value from `start` towards `end` that is not refuted."""
    if not refuted(end):
        return end
    kept, lost = start, end
    for _ in range(_HALVINGS):
        middle = (kept + lost) / 2
        kept, lost = (kept, middle) if refuted(middle) else (middle, lost)
    return lost


def _slack(moments: Moments) -> float:
    """The squared distance from the mean at which log evidence has grown by one."""
    return 2 * moments.variance * (moments.n + _MIXING) / moments.n**2


def _cost(n: int) -> float:
    """What mixing over unknown means costs, in nats."""
    return 0.5 * math.log((n + _MIXING) / _MIXING)
