"""A detector with its own measured accuracy, which is told beside every rate that it gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evenhand.evaluation.interval import Mask, Sample, balanced, share
from evenhand.figure import Figure


@dataclass(frozen=True, slots=True)
class Detector:
    """What it is called, how often it is right on labelled texts, on which, and what it cannot see."""

    name: str
    balanced_accuracy: Figure
    measured_on: str
    blind_to: str

    def json(self) -> dict[str, Any]:
        """The detector as a gate's result states it."""
        return {
            "name": self.name,
            "balanced_accuracy": self.balanced_accuracy.json(),
            "measured_on": self.measured_on,
            "blind_to": self.blind_to,
        }

    def words(self) -> str:
        """For a person, beside a rate."""
        return (
            f"{self.name}: balanced accuracy {self.balanced_accuracy.words()} on {self.measured_on}; "
            f"it cannot see {self.blind_to}"
        )


def balanced_accuracy(found_B: Sequence[bool], truth_B: Sequence[bool]) -> Figure:
    """The mean of the shares right among true and among false items, with an interval (MOVER over two Wilson's)."""
    right_B: Mask = np.asarray(found_B, dtype=bool) == np.asarray(truth_B, dtype=bool)
    sides = []
    for side in (True, False):
        kept_B = np.asarray(truth_B, dtype=bool) == side
        sides.append(Sample(right_B[kept_B].astype(np.float64), np.flatnonzero(kept_B)))
    return balanced(sides[0], sides[1], (share(sides[0]), share(sides[1])))
