"""How much better a model does on the pairs it was trained on than on those held out, and whether that gap grew."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from evenhand.evaluation.difference import difference
from evenhand.evaluation.preference import PairTraits, evaluate_pairs
from evenhand.figure import Figure
from evenhand.model.scores import ScoredPairs


@dataclass(frozen=True, slots=True)
class TrainGap:
    """`gap` is accuracy on training pairs minus accuracy on held-out ones; `growth` is what training added to it."""

    gap: Figure
    growth: Figure | None = None

    @property
    def flagged(self) -> bool:
        """Whether the gap is shown to have grown; where the start is not known, whether there is one."""
        decides = self.growth or self.gap
        return decides.low is not None and decides.low > 0

    def json(self) -> dict[str, Any]:
        """The shape in `evenhand evaluate --json`."""
        return {
            "gap": self.gap.json(),
            "growth": self.growth.json() if self.growth else None,
            "flagged": self.flagged,
        }


@dataclass(frozen=True, slots=True)
class Side:
    """Scores of one side now, and at the start where that is known."""

    now: ScoredPairs
    start: ScoredPairs | None = None
    traits: PairTraits | None = None


def train_gap(train: Side, held_out: Side) -> TrainGap:
    """Compare the two sides, which share no pair."""
    now = [evaluate_pairs(side.now, side.traits).pairwise_accuracy for side in (train, held_out)]
    if train.start is None or held_out.start is None:
        return TrainGap(unpaired(now[0], now[1]))
    moved = [
        difference(side.start, side.now, side.traits)["pairwise_accuracy"]
        for side in (train, held_out)
        if side.start is not None
    ]
    return TrainGap(unpaired(now[0], now[1]), unpaired(moved[0], moved[1]))


def unpaired(one: Figure, other: Figure) -> Figure:
    """The difference of two independent figures, its interval recovered from theirs (MOVER; Newcombe 1998, method 10).

    >>> unpaired(Figure(0.9, 100, 0.826, 0.945), Figure(0.7, 100, 0.604, 0.781)).words()
    '0.200 [0.090, 0.306] n=200'
    """
    count = one.n + other.n
    if one.value is None or other.value is None:
        return Figure(None, count)
    value = one.value - other.value
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return Figure(value, count)
    below = float(np.hypot(one.value - one.low, other.high - other.value))
    above = float(np.hypot(one.high - one.value, other.value - other.low))
    return Figure(value, count, value - below, value + above)
