"""Histograms that add up over days and models, and quantiles from them, with a relative error of at most 2 %."""

import math
from collections.abc import Mapping

_GROWTH = 1.04
# Where zero is counted: below the bin of any positive number that occurs.
ZERO = -100_000


def bin_of(value: float) -> int:
    """The bin of a number of at least 0; each bin's upper end is 4 % above its lower.

    >>> bin_of(0), bin_of(1), bin_of(100)
    (-100000, 0, 117)
    """
    return ZERO if value <= 0 else math.floor(math.log(value) / math.log(_GROWTH))


def quantile(counts: Mapping[int, int], share: float) -> float | None:
    """The value below which `share` of what was counted lies, None where nothing was.

    >>> round(quantile({bin_of(1): 1, bin_of(100): 1, bin_of(1000): 1}, 0.5))
    100
    """
    total = sum(counts.values())
    if total == 0:
        return None
    seen = 0
    for number in sorted(counts):
        seen += counts[number]
        if seen >= share * total:
            break
    return 0.0 if number == ZERO else _GROWTH ** (number + 0.5)
