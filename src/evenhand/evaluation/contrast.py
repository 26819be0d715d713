"""One paired difference with all that may be said of it: intervals, tests, what this many pairs can show, how many more would.

Shapes: B pairs.
"""

import math
from dataclasses import dataclass
from typing import Any

from scipy.special import ndtri

from evenhand.evaluation.bootstrap import bootstrap_mean, mcnemar
from evenhand.evaluation.interval import Sample, mean_difference
from evenhand.evaluation.verdict import Word, word_for
from evenhand.figure import Figure, Z

# Standard deviations between zero and a difference that is shown in four samples of five.
_POWER = float(ndtri(0.8))
# A difference below half a point is not worth planning for.
_LEAST_PLANNED = 0.005


@dataclass(frozen=True, slots=True)
class Contrast:
    """Candidate minus baseline on the same pairs; `up` pairs went from wrong to right, `down` the other way.

    `difference` has the closed-form interval that every report shows, `bootstrap` the percentile interval over prompt
    families; `mcnemar_p` is None where that test does not apply. The word needs both intervals on one side of zero.
    """

    difference: Figure
    bootstrap: Figure
    mcnemar_p: float | None
    up: int
    down: int
    rivals: int = 1

    @property
    def word(self) -> Word:
        """`better` or `worse` where both intervals exclude zero, each widened for the number of rivals (Bonferroni)."""
        words = {word_for(widened(figure, self.rivals)) for figure in (self.difference, self.bootstrap)}
        return words.pop() if len(words) == 1 else "undecided"

    @property
    def detectable(self) -> float | None:
        """The smallest true difference that this many pairs show in four samples of five."""
        error = _standard_error(self.difference)
        return None if error is None else min(1.0, (quantile(self.rivals) + _POWER) * error)

    @property
    def more_pairs(self) -> int | None:
        """How many more pairs, at least one, would show the difference that was seen in four samples of five; None where it
        is below half a point, for which no number is worth naming, or is shown already."""
        if self.difference.value is None or abs(self.difference.value) < _LEAST_PLANNED or self.word != "undecided":
            return None
        needed = self.pairs_for(abs(self.difference.value))
        return None if needed is None else max(1, needed)

    def pairs_for(self, true_difference: float) -> int | None:
        """How many more pairs of this kind would show a difference of that size in four samples of five."""
        error = _standard_error(self.difference)
        if error is None:
            return None
        reach = (quantile(self.rivals) + _POWER) * error / true_difference
        return max(0, math.ceil(self.difference.n * (reach**2 - 1)))

    def json(self) -> dict[str, Any]:
        """The contrast as a comparison states it."""
        return {
            "difference": self.difference.json(),
            "bootstrap": self.bootstrap.json(),
            "mcnemar_p": self.mcnemar_p,
            "up": self.up,
            "down": self.down,
            "verdict": self.word,
            "detectable": self.detectable,
            "more_pairs": self.more_pairs,
        }


def contrast(moved: Sample, rivals: int = 1) -> Contrast:
    """The contrast of outcomes that moved by -1 to 1 in halves; `rivals` candidates share one baseline."""
    up, down = int((moved.value_B > 0).sum()), int((moved.value_B < 0).sum())
    return Contrast(mean_difference(moved), bootstrap_mean(moved), mcnemar(moved), up, down, rivals)


def quantile(rivals: int) -> float:
    """Standard deviations of a normal that hold all but 5 % divided by `rivals`.

    >>> round(quantile(1), 4), round(quantile(3), 4)
    (1.96, 2.394)
    """
    return -float(ndtri(0.025 / rivals))


def widened(figure: Figure, rivals: int) -> Figure:
    """The 95 % interval stretched around its value to the level that `rivals` comparisons at once need."""
    if figure.value is None or figure.low is None or figure.high is None or rivals == 1:
        return figure
    by = quantile(rivals) / Z
    low, high = (figure.value + (end - figure.value) * by for end in (figure.low, figure.high))
    return Figure(figure.value, figure.n, low, high)


def _standard_error(difference: Figure) -> float | None:
    if difference.low is None or difference.high is None:
        return None
    return (difference.high - difference.low) / (2 * Z)
