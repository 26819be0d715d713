"""One check of a gate: two figures, their paired difference, a threshold and a verdict."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evenhand.evaluation.behaviour import Item
from evenhand.evaluation.detector import Detector
from evenhand.evaluation.interval import Sample, mean_difference, share, student_mean
from evenhand.evaluation.noninferiority import (
    Margin,
    Word,
    detectable,
    items_needed,
    word_for,
    word_for_difference,
)
from evenhand.evaluation.speed import ratio
from evenhand.figure import Figure

_NOTHING = Figure(None, 0)


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found. `threshold` bounds `difference`: from below where more is better, else from above.

    `failing` are the items that the candidate got wrong, with whether the incumbent got them right.
    """

    name: str
    word: Word
    candidate: Figure
    incumbent: Figure
    difference: Figure
    threshold: float
    meaning: str
    needed: int | None = None
    detector: Detector | None = None
    failing: tuple[dict[str, Any], ...] = ()
    note: str = ""
    aside: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Only a candidate shown to be not worse passes; what could not be told or was not run does not."""
        return self.word == "not worse"

    def json(self) -> dict[str, Any]:
        """The check as `evenhand gate --json` lists it."""
        return {
            "name": self.name,
            "passed": self.passed,
            "verdict": self.word,
            "candidate": self.candidate.json(),
            "incumbent": self.incumbent.json(),
            "difference": self.difference.json(),
            "threshold": self.threshold,
            "meaning": self.meaning,
            "detectable": detectable(self.difference),
            "items_needed": self.needed,
            "detector": self.detector.json() if self.detector else None,
            "failing": list(self.failing),
            "note": self.note,
            **self.aside,
        }


def not_run(name: str, meaning: str, threshold: float, why: str) -> Check:
    """A check that the policy asks for and that could not be made."""
    return Check(name, "not run", _NOTHING, _NOTHING, _NOTHING, threshold, meaning, note=why)


def share_check(
    name: str, meaning: str, sides: tuple[Sequence[Item], Sequence[Item]], margin: Margin, flips: float | None = None
) -> Check:
    """A share of items done right by candidate and incumbent, paired item by item."""
    right = [np.array([item.right for item in side], dtype=np.float64) for side in sides]
    family_B = np.arange(len(right[0]))
    candidate, incumbent = (share(Sample(side_B, family_B)) for side_B in right)
    moved = mean_difference(Sample(right[0] - right[1], family_B))
    failing = tuple(
        {**one.json(), "incumbent_right": other.right == 1.0} for one, other in zip(*sides) if one.right < 1.0
    )
    word = word_for(candidate, incumbent, moved, margin)
    needed = items_needed(margin.worse_by, flips) if flips is not None else None
    return Check(name, word, candidate, incumbent, moved, -margin.worse_by, meaning, needed, None, failing)


def rise_check(name: str, meaning: str, sides: tuple[Sequence[float], Sequence[float]], most: float) -> Check:
    """A figure that should not rise by more than `most`, such as repetition, paired item by item."""
    values = [np.array(side, dtype=np.float64) for side in sides]
    family_B = np.arange(len(values[0]))
    candidate, incumbent = (student_mean(Sample(side_B, family_B)) for side_B in values)
    moved = student_mean(Sample(values[0] - values[1], family_B))
    word = word_for_difference(_negated(moved), most)
    return Check(name, word, candidate, incumbent, moved, most, meaning)


def length_check(
    name: str, meaning: str, sides: tuple[Sequence[int], Sequence[int]], bounds: tuple[float, float]
) -> Check:
    """The ratio of reply lengths, candidate over incumbent, whose whole interval must lie within `bounds`; a reply has
    at least one token."""
    values = [np.maximum(np.array(side, dtype=np.float64), 1.0) for side in sides]
    family_B = np.arange(len(values[0]))
    candidate, incumbent = (student_mean(Sample(side_B, family_B)) for side_B in values)
    found = ratio(list(zip(values[0].tolist(), values[1].tolist())))
    return Check(name, ratio_word(found, bounds), candidate, incumbent, found, bounds[1], meaning)


def ratio_word(found: Figure, bounds: tuple[float, float]) -> Word:
    """Whether a ratio's whole interval lies within bounds; without an interval, where all are equal, its value.

    >>> ratio_word(Figure(1.1, 8, 1.0, 1.2), (0.0, 1.3)), ratio_word(Figure(1.1, 8, 0.9, 1.4), (0.0, 1.3))
    ('not worse', 'undecided')
    """
    if found.value is None or found.n < 2:
        return "not run"
    low = found.value if found.low is None else found.low
    high = found.value if found.high is None else found.high
    if bounds[0] < low and high < bounds[1]:
        return "not worse"
    return "worse" if high < bounds[0] or low > bounds[1] else "undecided"


def _negated(figure: Figure) -> Figure:
    if figure.value is None:
        return figure
    low = None if figure.high is None else -figure.high
    high = None if figure.low is None else -figure.low
    return Figure(-figure.value, figure.n, low, high)
