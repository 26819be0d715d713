"""95 % intervals for shares, balanced shares, quantiles, rank correlations and paired differences.

Every interval is in closed form, so that the same table always gives the same interval. Items of one family (answers to
one prompt or to near-duplicates of it) are taken as one draw: their correlation is measured and widens the interval.

Shapes: B items, G families.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from evenhand.figure import Figure, Z

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

# What may lie beyond the outermost order statistic on one side.
_TAIL = 0.025


@dataclass(frozen=True, slots=True)
class Sample:
    """B values, each with the number of the family that it was drawn with."""

    value_B: Floats
    family_B: Integers

    def __len__(self) -> int:
        return len(self.value_B)

    @property
    def mean(self) -> float:
        """The plain mean over items."""
        return float(self.value_B.mean())

    def where(self, kept_B: Mask) -> "Sample":
        """The items that `kept_B` marks."""
        return Sample(self.value_B[kept_B], self.family_B[kept_B])


def family_codes(label_B: Sequence[str | None] | None, count: int) -> Integers:
    """Numbers for family labels; an item without a label is a family of its own.

    >>> family_codes(["a", None, "a", None], 4).tolist()
    [0, 1, 0, 2]
    """
    if label_B is None:
        return np.arange(count)
    codes: dict[object, int] = {}
    keys = ((label,) if label is not None else place for place, label in enumerate(label_B))
    return np.array([codes.setdefault(key, len(codes)) for key in keys], dtype=np.int64)


def share(sample: Sample) -> Figure:
    """The mean of values within 0 and 1, with Wilson's score interval at the effective count.

    For values of 0 and 1 in families of one this is Wilson's interval exactly. A tie's one half has less
    variance than 0 and 1, which raises the effective count; a value of 0 and one of 1 are
    added to that estimate so that it never vanishes. The design effect of families lowers it (Korn and Graubard 1998).

    >>> share(Sample(np.array([1.0, 1, 1, 0]), np.arange(4))).words()
    '0.750 [0.301, 0.954] n=4'
    """
    if len(sample) == 0:
        return Figure(None, 0)
    with_ends = np.concatenate([sample.value_B, [0.0, 1.0]])
    spread = with_ends.var() / (with_ends.mean() * (1 - with_ends.mean()))
    low, high = wilson(sample.mean, effective_count(sample) / float(spread))
    return Figure(sample.mean, len(sample), low, high)


def wilson(mean: float, count: float) -> tuple[float, float]:
    """Wilson's score interval for a proportion `mean` of `count` draws, a count that need not be whole."""
    middle = (mean + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * float(np.sqrt(mean * (1 - mean) / count + Z**2 / (4 * count**2)))
    return max(0.0, min(mean, middle - half)), min(1.0, max(mean, middle + half))


def effective_count(sample: Sample) -> float:
    """How many independent draws would tell the mean as exactly as these do; never more than there are.

    The design effect is the jackknife variance of the mean over families divided by that of independent items. Few or
    uneven families make that estimate itself uncertain, which Student's quantile pays for. Values that do not vary
    tell nothing about their correlation: then a family counts as one draw.
    """
    count, sizes = len(sample), np.unique(sample.family_B, return_counts=True)[1]
    if len(sizes) == count:
        return float(count)
    families = count**2 / float((sizes.astype(np.float64) ** 2).sum())
    residual_B = sample.value_B - sample.mean
    independent = float((residual_B**2).sum()) / (count * (count - 1))
    if len(sizes) == 1 or independent == 0:
        return families
    effect = max(1.0, covariance_of_means(sample, sample) / independent)
    pay = student(count - 1) / student(families - 1)
    return max(1.0, count / effect * pay**2)


def covariance_of_means(first: Sample, second: Sample) -> float:
    """The delete-one-family jackknife covariance of two means that share a numbering of families."""
    length = int(max(first.family_B.max(), second.family_B.max())) + 1
    families = len(np.union1d(first.family_B, second.family_B))
    moves = float(_moves_without(first, length) @ _moves_without(second, length))
    return moves * (families - 1) / families


def _moves_without(sample: Sample, length: int) -> Floats:
    """How the mean moves when each family is left out; no family may hold every item."""
    total_G = np.bincount(sample.family_B, sample.value_B - sample.mean, length)
    return total_G / (len(sample) - np.bincount(sample.family_B, minlength=length))


def student(freedom: float) -> float:
    """Student's two-sided 95 % quantile; at least one degree of freedom is granted."""
    return float(stdtrit(max(1.0, freedom), 0.975))


def student_mean(sample: Sample) -> Figure:
    """The mean of values on a continuous scale with Student's interval over families; none where nothing varies."""
    if len(sample) == 0:
        return Figure(None, 0)
    sizes = np.unique(sample.family_B, return_counts=True)[1].astype(np.float64)
    error = float(np.sqrt(covariance_of_means(sample, sample))) if len(sizes) > 1 else 0.0
    if error == 0:
        return Figure(sample.mean, len(sample))
    half = student(len(sample) ** 2 / float((sizes**2).sum()) - 1) * error
    return Figure(sample.mean, len(sample), sample.mean - half, sample.mean + half)


def mean_difference(sample: Sample) -> Figure:
    """The mean of paired differences of outcomes (from -1 to 1 in halves), after minus before.

    Bonett and Price's adjusted interval (2012): one difference of +1 and one of -1 are added before the variance is
    taken, so that few changed pairs give no false certainty. On 0 and 1 outcomes it excludes zero where the exact
    McNemar test rejects (six changes out of six do, five do not). Widened for families like a share.

    >>> mean_difference(Sample(np.array([1.0] * 6 + [0.0] * 194), np.arange(200))).words(digits=4)
    '0.0300 [0.0026, 0.0568] n=200'
    """
    count = len(sample)
    if count == 0:
        return Figure(None, 0)
    middle = float(sample.value_B.sum()) / (count + 2)
    variance = (float((sample.value_B**2).sum()) + 2) / (count + 2) - middle**2
    half = Z * float(np.sqrt(variance / (count + 2) * count / effective_count(sample)))
    return Figure(sample.mean, count, max(-1.0, middle - half), min(1.0, middle + half))


def balanced(first: Sample, second: Sample, figures: tuple[Figure, Figure]) -> Figure:
    """The mean of two means, its interval recovered from the two intervals in `figures` (MOVER, Zou 2008).

    Families that have items on both sides correlate the two means; that correlation is measured. The value is None
    where a side is empty.
    """
    one, two = figures
    count = len(first) + len(second)
    if one.value is None or two.value is None:
        return Figure(None, count)
    value = (one.value + two.value) / 2
    shared = correlation_of_means(first, second)
    (below_one, above_one), (below_two, above_two) = _halves(one), _halves(two)
    low = value - _joined(below_one, below_two, shared)
    return Figure(value, count, low, value + _joined(above_one, above_two, shared))


def _halves(figure: Figure) -> tuple[float, float]:
    """How far the interval reaches below and above the value."""
    assert figure.value is not None
    assert figure.low is not None
    assert figure.high is not None
    return figure.value - figure.low, figure.high - figure.value


def _joined(one: float, two: float, correlation: float) -> float:
    return float(np.sqrt(one**2 + two**2 + 2 * correlation * one * two)) / 2


def correlation_of_means(first: Sample, second: Sample) -> float:
    """How two means move together through the families that both have; 0 where they have none in common."""
    if len(np.intersect1d(first.family_B, second.family_B)) == 0:
        return 0.0
    if min(len(np.unique(side.family_B)) for side in (first, second)) == 1:
        return 0.0
    spread = covariance_of_means(first, first) * covariance_of_means(second, second)
    if spread <= 0:
        return 0.0
    return float(np.clip(covariance_of_means(first, second) / np.sqrt(spread), -1.0, 1.0))


def median(sample: Sample) -> Figure:
    """The median with an interval between two order statistics (Woodruff 1952); no interval below six items."""
    return quantile(sample, 0.5)


def quantile(sample: Sample, q: float) -> Figure:
    """The value that a share `q` lies below, with an interval between two order statistics (Woodruff 1952).

    No interval where even the smallest and the largest value would not hold it in 95 of 100 samples.
    """
    count = len(sample)
    if count == 0:
        return Figure(None, 0)
    value = float(np.quantile(sample.value_B, q))
    if max(q, 1 - q) ** count > _TAIL:
        return Figure(value, count)
    below_B = (sample.value_B < value) + q * (sample.value_B == value)
    low, high = wilson(q, effective_count(Sample(below_B, sample.family_B)))
    ordered = np.sort(sample.value_B)
    first, last = (max(0, int(share_outside * count) - 1) for share_outside in (low, 1 - high))
    return Figure(value, count, float(ordered[first]), float(ordered[count - 1 - last]))


def spearman(one: Sample, two_B: Floats) -> Figure:
    """Spearman's rank correlation of `one` with `two_B`, ties by mid-ranks; None where a side does not vary.

    The interval is Student's on Fisher's z. The standard error is the sum of each family's influence on the
    correlation, so it holds for unequal spreads, ties and answers that belong together.
    """
    count = len(one)
    u_B, v_B = mid_ranks(one.value_B), mid_ranks(two_B)
    spread = float(np.sqrt((u_B @ u_B) * (v_B @ v_B))) / count if count else 0.0
    if spread == 0:
        return Figure(None, count)
    value = float(u_B @ v_B) / count / spread
    families = np.unique(one.family_B, return_counts=True)[1].astype(np.float64)
    if 1 - value**2 < 1e-9 or len(families) < 2:
        return Figure(value, count)
    influence = Sample(_influence(u_B, v_B, value), one.family_B)
    error = float(np.sqrt(covariance_of_means(influence, influence))) / (1 - value**2)
    if error < 1e-9:  # so few items that none of them moves it
        return Figure(value, count)
    half = student(count**2 / float((families**2).sum()) - 1) * error
    return Figure(value, count, float(np.tanh(np.arctanh(value) - half)), float(np.tanh(np.arctanh(value) + half)))


def mid_ranks(value_B: Floats) -> Floats:
    """Ranks as shares of B, centred on 0; equal values have the middle of their ranks."""
    _, inverse_B, size_K = np.unique(value_B, return_inverse=True, return_counts=True)
    below_K = np.cumsum(size_K) - size_K
    return (below_K + 0.5 * size_K)[inverse_B] / max(1, len(value_B)) - 0.5


def _influence(u_B: Floats, v_B: Floats, value: float) -> Floats:
    """How much each item moves the correlation, times B: the influence function at the sample."""
    along_u, along_v, product = _product_influence(u_B, u_B), _product_influence(v_B, v_B), _product_influence(u_B, v_B)
    u_spread, v_spread = float((u_B**2).mean()), float((v_B**2).mean())
    scaled = product / np.sqrt(u_spread * v_spread)
    return scaled - value / 2 * (along_u / u_spread + along_v / v_spread)


def _product_influence(u_B: Floats, v_B: Floats) -> Floats:
    """Influence on mean(u * v): directly, and by moving the ranks of all other items."""
    return u_B * v_B + _mean_above(u_B, v_B) + _mean_above(v_B, u_B) - 3 * float((u_B * v_B).mean())


def _mean_above(key_B: Floats, value_B: Floats) -> Floats:
    """For each item, the sum over B of the values at larger keys plus half of those at an equal key."""
    _, inverse_B = np.unique(key_B, return_inverse=True)
    sum_K = np.bincount(inverse_B, value_B)
    above_K = np.cumsum(sum_K[::-1])[::-1] - 0.5 * sum_K
    return above_K[inverse_B] / len(key_B)
