"""Whether a reward model is as sure as it is right: sigmoid(gap) read as the probability that the better answer wins.

Shapes: B pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from evenhand.errors import DataError
from evenhand.evaluation.interval import Floats, Sample, family_codes, share, student_mean
from evenhand.figure import Figure

_EDGES = np.linspace(0.5, 1.0, 6)
_COLDEST, _HOTTEST = 1e-3, 1e3


@dataclass(frozen=True, slots=True)
class Bin:
    """Pairs of which the model is about equally sure: its mean confidence, and how often it is right."""

    confidence: float
    accuracy: Figure

    def json(self) -> dict[str, Any]:
        """The bin as a report states it."""
        return {"confidence": self.confidence, "accuracy": self.accuracy.json()}


@dataclass(frozen=True, slots=True)
class Calibration:
    """`log_loss` in nats, ln 2 for a coin; `error` is the mean distance of confidence and accuracy over the bins, by
    their pairs (Guo et al. 2017, arXiv 1706.04599). Dividing gaps by `temperature` makes the log loss least: above 1 the
    model is too sure, below 1 not sure enough; None where no number does, since all or not even half are right."""

    log_loss: Figure
    error: Figure
    temperature: float | None
    bins: tuple[Bin, ...]

    def json(self) -> dict[str, Any]:
        """The shape of `evenhand evaluate --json` under `calibration`."""
        return {
            "log_loss": self.log_loss.json(),
            "error": self.error.json(),
            "temperature": self.temperature,
            "bins": [one.json() for one in self.bins],
        }


def calibration(gap_B: Floats, families: Sequence[str | None] | None = None) -> Calibration:
    """The calibration of gaps between the rewards of chosen and rejected answers.

    Raises DataError where there is none.

    >>> round(calibration(np.array([2.0, 2.0, 2.0, -2.0])).temperature, 3)
    1.82
    """
    if not len(gap_B):
        raise DataError("there is no pair to calibrate on; give held-out data with at least one usable row.")
    family_B = family_codes(families, len(gap_B))
    sure_B = expit(np.abs(gap_B))
    right = Sample((np.sign(gap_B) + 1) / 2, family_B)
    bins = []
    place_B = np.clip(np.searchsorted(_EDGES, sure_B, side="right") - 1, 0, len(_EDGES) - 2)
    for place in np.unique(place_B):
        inside_B = place_B == place
        bins.append(Bin(float(sure_B[inside_B].mean()), share(right.where(inside_B))))
    off = sum(one.accuracy.n * abs(one.confidence - _value(one)) for one in bins) / len(gap_B)
    log_loss = student_mean(Sample(np.logaddexp(0.0, -gap_B), family_B))
    return Calibration(log_loss, Figure(off, len(gap_B)), temperature(gap_B), tuple(bins))


def temperature(gap_B: Floats) -> float | None:
    """What the gaps have to be divided by for the least log loss; None where no number does.

    The slope in 1/T is sum(gap * sigmoid(-gap / T)), which falls as 1/T grows, so that it has one root at most.
    """

    def slope(sharpness: float) -> float:
        return float((gap_B * expit(-gap_B * sharpness)).sum())

    coldest, hottest = 1 / _HOTTEST, 1 / _COLDEST
    if not slope(coldest) > 0 > slope(hottest):
        return None
    return 1 / float(brentq(slope, coldest, hottest))


def _value(one: Bin) -> float:
    assert one.accuracy.value is not None
    return one.accuracy.value
