"""Whether the probability that a gap stands for is one: how sure a model is of its preferences, and how often it is right.

Shapes: B pairs.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from evenhand.evaluation.interval import Floats, Integers, Sample, share, student_mean
from evenhand.evaluation.preference import wins
from evenhand.figure import Figure

_BINS = 10


@dataclass(frozen=True, slots=True)
class Calibration:
    """Of the implied probability sigmoid(beta * gap).

    `overconfidence` is the mean confidence in the preferred answer minus accuracy, `brier` the mean squared error of the
    probability that the chosen answer wins (0.25 is a coin's). `error` is the expected calibration error over ten bins of
    equal width, which has no interval and is never 0 on a small sample; `bins` are (mean confidence, accuracy).
    """

    beta: float
    overconfidence: Figure
    brier: Figure
    error: Figure
    bins: tuple[tuple[float, Figure], ...]

    def json(self) -> dict[str, Any]:
        """The shape in `evenhand evaluate --json`."""
        return {
            "beta": self.beta,
            "overconfidence": self.overconfidence.json(),
            "brier": self.brier.json(),
            "expected_calibration_error": self.error.json(),
            "bins": [{"confidence": confidence, "accuracy": accuracy.json()} for confidence, accuracy in self.bins],
        }


def calibration(gap_B: Floats, family_B: Integers, beta: float) -> Calibration:
    """The calibration of gaps in the unit that `beta` multiplies; DataError has been raised before for what is not finite."""
    implied_B = 1 / (1 + np.exp(-np.clip(beta * gap_B, -500, 500)))
    sure_B, right_B = np.maximum(implied_B, 1 - implied_B), wins(gap_B)
    place_B = np.minimum(((sure_B - 0.5) * 2 * _BINS).astype(np.int64), _BINS - 1)
    bins, missed = [], 0.0
    for place in np.unique(place_B):
        own_B = place_B == place
        accuracy = share(Sample(right_B[own_B], family_B[own_B]))
        confidence = float(sure_B[own_B].mean())
        assert accuracy.value is not None
        missed += abs(confidence - accuracy.value) * int(own_B.sum())
        bins.append((confidence, accuracy))
    return Calibration(
        beta,
        student_mean(Sample(sure_B - right_B, family_B)),
        student_mean(Sample((1 - implied_B) ** 2, family_B)),
        Figure(missed / len(gap_B), len(gap_B)),
        tuple(bins),
    )
