"""Second opinions on a paired difference: a bootstrap over prompt families, and McNemar's exact test.

Shapes: B items, G families, K kinds of family, R resamples.
"""

import numpy as np
from scipy.special import bdtr

from evenhand.evaluation.interval import Floats, Sample
from evenhand.figure import Figure

_RESAMPLES = 4000
_AT_ONCE = 4_000_000


def bootstrap_mean(sample: Sample, seed: int = 0, level: float = 0.95) -> Figure:
    """The mean with the percentile interval of resampled families (Davison and Hinkley 1997, section 3.8).

    The same sample and seed always give the same interval. As in the closed form, a family of +1 and one of -1 are drawn
    from too, so that few changed pairs give no false certainty. None below two families.
    """
    if len(sample) == 0:
        return Figure(None, 0)
    total_G, size_G = family_totals(sample)
    if len(size_G) < 2:
        return Figure(sample.mean, len(sample))
    total_G, size_G = np.append(total_G, [1.0, -1.0]), np.append(size_G, [1.0, 1.0])
    low, high = np.quantile(_resampled(total_G, size_G, seed), [(1 - level) / 2, (1 + level) / 2])
    return Figure(sample.mean, len(sample), float(low), float(high))


def family_totals(sample: Sample) -> tuple[Floats, Floats]:
    """The sum of the values and the number of items of each family."""
    _, place_B, size_G = np.unique(sample.family_B, return_inverse=True, return_counts=True)
    total_G: Floats = np.bincount(place_B, sample.value_B).astype(np.float64)
    return total_G, size_G.astype(np.float64)


def _resampled(total_G: Floats, size_G: Floats, seed: int) -> Floats:
    """The means of R draws of G families.

    Families with the same total and size are drawn as one kind, which gives the same distribution in a fraction of the
    time: paired outcomes are of few kinds.
    """
    kind_K2, count_K = np.unique(np.stack([total_G, size_G], axis=1), axis=0, return_counts=True)
    draw, families = np.random.default_rng(seed), len(size_G)
    rows = max(1, _AT_ONCE // len(kind_K2))
    means: list[Floats] = []
    for start in range(0, _RESAMPLES, rows):
        times_RK = draw.multinomial(families, count_K / families, min(rows, _RESAMPLES - start))
        means.append(np.dot(times_RK, kind_K2[:, 0]) / np.dot(times_RK, kind_K2[:, 1]))
    return np.concatenate(means)


def mcnemar(sample: Sample) -> float | None:
    """The exact two-sided p of McNemar's test on paired outcomes that differ by -1, 0 or 1.

    None where it does not apply: where there is no pair, where families have more than one item, or a tie counts one half.

    >>> mcnemar(Sample(np.array([1.0] * 6 + [0.0] * 194), np.arange(200)))
    0.03125
    """
    alone = len(np.unique(sample.family_B)) == len(sample)
    if not len(sample) or not alone or not np.isin(sample.value_B, (-1.0, 0.0, 1.0)).all():
        return None
    up, down = int((sample.value_B == 1).sum()), int((sample.value_B == -1).sum())
    return min(1.0, 2 * float(bdtr(min(up, down), up + down, 0.5))) if up + down else 1.0
