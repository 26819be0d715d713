"""Second opinions on a paired difference: a bootstrap over prompt families, and McNemar's exact test.

Shapes: B items, G families, R resamples.
"""

import numpy as np
from scipy.special import bdtr

from evenhand.evaluation.interval import Floats, Sample
from evenhand.figure import Figure

_RESAMPLES = 4000
_AT_ONCE = 4_000_000


def bootstrap_mean(sample: Sample, seed: int = 0, level: float = 0.95) -> Figure:
    """The mean with the percentile interval of resampled families (Davison and Hinkley 1997, section 3.8).

    The same sample and seed always give the same interval. With very few families, or few values that differ, it is too
    narrow, so it may only take certainty away from a closed form, never add any. None below two families.
    """
    if len(sample) == 0:
        return Figure(None, 0)
    total_G, size_G = family_totals(sample)
    if len(size_G) < 2:
        return Figure(sample.mean, len(sample))
    mean_R = np.concatenate([total / size for total, size in _resampled(total_G, size_G, seed)])
    low, high = np.quantile(mean_R, [(1 - level) / 2, (1 + level) / 2])
    return Figure(sample.mean, len(sample), float(low), float(high))


def family_totals(sample: Sample) -> tuple[Floats, Floats]:
    """The sum of the values and the number of items of each family."""
    _, place_B, size_G = np.unique(sample.family_B, return_inverse=True, return_counts=True)
    total_G: Floats = np.bincount(place_B, sample.value_B).astype(np.float64)
    return total_G, size_G.astype(np.float64)


def _resampled(total_G: Floats, size_G: Floats, seed: int) -> list[tuple[Floats, Floats]]:
    """Sums and counts of R draws of G families, as many draws at once as fit into a little memory."""
    draw, families = np.random.default_rng(seed), len(size_G)
    rows = max(1, _AT_ONCE // families)
    parts: list[tuple[Floats, Floats]] = []
    for start in range(0, _RESAMPLES, rows):
        times_RG = draw.multinomial(families, np.full(families, 1 / families), min(rows, _RESAMPLES - start))
        parts.append((np.dot(times_RG, total_G), np.dot(times_RG, size_G)))
    return parts


def mcnemar(sample: Sample) -> float | None:
    """The exact two-sided p of McNemar's test on paired outcomes that differ by -1, 0 or 1.

    None where it does not apply: where families have more than one item, or a tie counts one half.

    >>> mcnemar(Sample(np.array([1.0] * 6 + [0.0] * 194), np.arange(200)))
    0.03125
    """
    alone = len(np.unique(sample.family_B)) == len(sample)
    if not alone or not np.isin(sample.value_B, (-1.0, 0.0, 1.0)).all():
        return None
    up, down = int((sample.value_B == 1).sum()), int((sample.value_B == -1).sum())
    return min(1.0, 2 * float(bdtr(min(up, down), up + down, 0.5))) if up + down else 1.0
