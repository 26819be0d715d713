"""What several annotators' verdicts on one item most likely mean, weighed by how reliable each of them is.

Shapes: V votes, I items, A annotators, L = 3 labels (first answer, second answer, tie).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evenhand.data.agreement import Ratings
from evenhand.figure import Figure

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_LABELS = 3
_ROUNDS = 1000
_STILL = 1e-7
_LITTLE = 1e-10


@dataclass(frozen=True, slots=True)
class Consensus:
    """Dawid and Skene's estimate: `likely` has each item's label probabilities, `accuracy` each annotator's share of
    verdicts that the estimate holds right, `noise` the expected share of judgments that are wrong."""

    likely: Mapping[bytes, tuple[float, ...]]
    accuracy: Mapping[str, Figure]
    noise: Figure

    def json(self) -> dict[str, object]:
        """The figures, without the single items."""
        return {
            "items": len(self.likely),
            "label_noise": self.noise.json(),
            "annotator_accuracy": {name: figure.json() for name, figure in self.accuracy.items()},
        }


def likely_labels(ratings: Ratings) -> Mapping[bytes, tuple[float, ...]]:
    """The probability of each label for each item that two or more annotators judged."""
    return consensus(ratings).likely


def consensus(ratings: Ratings) -> Consensus:
    """Expectation-maximisation over annotators' confusion matrices (Dawid and Skene 1979), from majority shares.

    Accuracies are the model's own, in the sample: they are expectations, so they carry no interval.
    """
    names = sorted({name for labels in ratings.values() for name in labels})
    number = {name: at for at, name in enumerate(names)}
    votes = [(item, number[name], label) for item, by in enumerate(ratings.values()) for name, label in by.items()]
    if not votes:
        return Consensus({}, {}, Figure(None, 0))
    item_V, annotator_V, label_V = (np.array(column, np.int64) for column in zip(*votes))
    likely_IL = _expectation_maximisation(item_V, annotator_V, label_V, (len(ratings), len(names)))
    right_V = likely_IL[item_V, label_V]
    given_A = np.bincount(annotator_V, minlength=len(names))
    right_A = np.bincount(annotator_V, weights=right_V, minlength=len(names))
    accuracy = {name: Figure(float(right_A[at] / given_A[at]), int(given_A[at])) for name, at in number.items()}
    likely = {item: tuple(row) for item, row in zip(ratings, likely_IL.tolist())}
    return Consensus(likely, accuracy, Figure(float(1 - right_V.mean()), len(votes)))


def _expectation_maximisation(
    item_V: Integers, annotator_V: Integers, label_V: Integers, size: tuple[int, int]
) -> Floats:
    items, annotators = size
    likely_IL = np.zeros((items, _LABELS))
    np.add.at(likely_IL, (item_V, label_V), 1.0)
    likely_IL /= likely_IL.sum(axis=1, keepdims=True)
    for _ in range(_ROUNDS):
        prior_L = likely_IL.mean(axis=0)
        # errors_ALL[a, given, true]: how annotator a's verdicts are spread where the truth is `true`.
        errors_ALL = np.zeros((annotators, _LABELS, _LABELS))
        np.add.at(errors_ALL, (annotator_V, label_V), likely_IL[item_V])
        errors_ALL = np.maximum(errors_ALL, _LITTLE)
        errors_ALL /= errors_ALL.sum(axis=1, keepdims=True)
        log_IL = np.zeros((items, _LABELS)) + np.log(np.maximum(prior_L, _LITTLE))
        np.add.at(log_IL, item_V, np.log(errors_ALL[annotator_V, label_V]))
        new_IL = np.exp(log_IL - log_IL.max(axis=1, keepdims=True))
        new_IL /= new_IL.sum(axis=1, keepdims=True)
        moved, likely_IL = float(np.abs(new_IL - likely_IL).max()), new_IL
        if moved < _STILL:
            break
    return likely_IL
