"""Whether a model is not worse than another by more than a margin, tested as such: an interval against the margin.

"No significant difference" is no answer to that question: a small sample never shows one. Here a small sample leaves the
answer open, and an open answer does not pass.
"""

import math
from dataclasses import dataclass
from typing import Literal

from scipy.special import ndtri

from evenhand.figure import Figure, Z

Word = Literal["not worse", "worse", "undecided", "cannot detect", "not run"]


@dataclass(frozen=True, slots=True)
class Margin:
    """How much worse is still accepted, in the figure's unit; `chance` is what a model without any skill would reach."""

    worse_by: float
    chance: float = 0.0


def word_for(candidate: Figure, incumbent: Figure, difference: Figure, margin: Margin) -> Word:
    """What may be said of shares of right answers; `difference` is candidate minus incumbent, paired.

    `cannot detect` where the incumbent is not shown to beat chance by the margin: then a loss of that size could not be
    seen. `not worse` only where the whole 95 % interval lies above minus the margin, so that a loss of the margin's
    size passes in at most 2.5 of 100 gates; `worse` where it lies below zero; else `undecided`.

    >>> same = Figure(0.0, 200, -0.04, 0.04)
    >>> word_for(Figure(0.8, 200, 0.74, 0.85), Figure(0.8, 200, 0.74, 0.85), same, Margin(0.1))
    'not worse'
    >>> word_for(Figure(0.1, 200, 0.07, 0.15), Figure(0.1, 200, 0.07, 0.15), same, Margin(0.1))
    'cannot detect'
    """
    if candidate.value is None or incumbent.low is None or difference.low is None or difference.high is None:
        return "not run"
    if incumbent.low - margin.chance < margin.worse_by:
        return "cannot detect"
    return word_for_difference(difference, margin.worse_by)


def word_for_difference(difference: Figure, worse_by: float) -> Word:
    """The same for a figure that needs no chance level: positive is better, `worse_by` is accepted."""
    if difference.low is None or difference.high is None:
        return "not run" if difference.value is None or difference.n < 2 else _without_interval(difference, worse_by)
    if difference.low > -worse_by:
        return "not worse"
    return "worse" if difference.high < 0 else "undecided"


def _without_interval(difference: Figure, worse_by: float) -> Word:
    """Where every pair differs by the same there is nothing to estimate."""
    assert difference.value is not None
    return "not worse" if difference.value > -worse_by else "worse"


def items_needed(worse_by: float, flips: float, passing: float = 0.995) -> int:
    """How many items an equal model needs to pass in a share `passing` of gates, where a share `flips` of items changes.

    The differences of such items have a variance of `flips`, to which the interval adds two rows; n solves
    (z of the interval + z of `passing`) * sqrt(flips * n + 2) / n = worse_by.

    >>> items_needed(0.15, 0.15), items_needed(0.1, 0.15)
    (150, 322)
    """
    reach = ((Z + float(ndtri(passing))) / worse_by) ** 2
    return math.ceil((reach * flips + math.sqrt((reach * flips) ** 2 + 8 * reach)) / 2)


def detectable(difference: Figure) -> float | None:
    """The smallest loss that this sample would have shown: half the interval's width."""
    if difference.low is None or difference.high is None:
        return None
    return (difference.high - difference.low) / 2
