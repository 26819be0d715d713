"""How far annotators agree on the same items: percent agreement, Krippendorff's alpha, Cohen's and Fleiss' kappa.

Shapes: I items, L = 3 labels (first answer, second answer, tie), C cells of L x L, K terms, R resamples.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evenhand.data.items import Ballot, Identity
from evenhand.figure import Figure

Floats = npt.NDArray[np.float64]
Ratings = Mapping[bytes, Mapping[str, int]]

_LABELS = 3
_RESAMPLES, _RESAMPLES_OF_MANY = 1000, 200
_MANY_ITEMS = 50_000


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement on the items that two or more annotators judged; each figure's n is a count of items.

    `cohen_kappa` is given where exactly two annotators shared items, `fleiss_kappa` where every shared item has the
    same number of ratings; elsewhere their value is None with n = 0.
    """

    items: int
    ratings: int
    percent: Figure
    krippendorff_alpha: Figure
    cohen_kappa: Figure
    fleiss_kappa: Figure

    def json(self) -> dict[str, object]:
        """The figures under their own names."""
        return {
            "items": self.items,
            "ratings": self.ratings,
            "percent_agreement": self.percent.json(),
            "krippendorff_alpha": self.krippendorff_alpha.json(),
            "cohen_kappa": self.cohen_kappa.json(),
            "fleiss_kappa": self.fleiss_kappa.json(),
        }


@dataclass(frozen=True, slots=True)
class AnnotatorAgreement:
    """One annotator against the others: `alpha` of all ratings of the items that this annotator judged, and Cohen's
    kappa with each other annotator on the items that both judged."""

    name: str
    items: int
    percent: Figure
    alpha: Figure
    with_others: Mapping[str, Figure]

    def json(self) -> dict[str, object]:
        """The annotator as a report states it."""
        return {
            "annotator": self.name,
            "items": self.items,
            "percent_agreement": self.percent.json(),
            "krippendorff_alpha": self.alpha.json(),
            "cohen_kappa": {name: figure.json() for name, figure in self.with_others.items()},
        }


def annotator_agreements(ratings: Ratings, most: int = 24) -> tuple[AnnotatorAgreement, ...]:
    """How each annotator agrees with the others, those with most shared items first, `most` of them at most."""
    shared = Counter(name for labels in ratings.values() for name in labels)
    names = [name for name, _ in sorted(shared.items(), key=lambda own: (-own[1], own[0]))[:most]]
    return tuple(_annotator_agreement(name, names, ratings) for name in names)


def _annotator_agreement(name: str, names: Sequence[str], ratings: Ratings) -> AnnotatorAgreement:
    mine = {item: labels for item, labels in ratings.items() if name in labels}
    found = agreement(mine)
    both = {
        other: {item: {who: labels[who] for who in (name, other)} for item, labels in mine.items() if other in labels}
        for other in names
        if other != name
    }
    kappas = {other: agreement(items).cohen_kappa for other, items in both.items() if items}
    return AnnotatorAgreement(name, len(mine), found.percent, found.krippendorff_alpha, kappas)


def shared_ratings(ballots: Sequence[Ballot], same: Sequence[Identity]) -> dict[bytes, dict[str, int]]:
    """By item, each named annotator's label, for items that at least two annotators judged.

    The same two answers may come in either order. An annotator who judged an item twice counts once, with the verdict
    given earlier: by time where it is known, then by row.
    """
    votes: dict[bytes, dict[str, tuple[str, int, int]]] = {}
    for ballot, key in zip(ballots, same, strict=True):
        if ballot.annotator is None:
            continue
        vote = (ballot.time or "", ballot.row, key.label)
        mine = votes.setdefault(key.item, {})
        mine[ballot.annotator] = min(vote, mine.get(ballot.annotator, vote))
    return {item: {annotator: vote[2] for annotator, vote in by.items()} for item, by in votes.items() if len(by) > 1}


def agreement(ratings: Ratings, seed: int = 0) -> Agreement:
    """All agreement figures of `ratings`, with percentile intervals from 1,000 resamples of the items, 200
    where there are over 50,000.

    Krippendorff (2011), "Computing Krippendorff's alpha-reliability", nominal difference; Fleiss (1971); Cohen (1960).
    """
    counts_IL = _label_counts(ratings)
    cells_IC = _two_annotators(ratings)
    terms_IK = np.hstack([_terms(counts_IL), cells_IC])
    sums_RK = _resampled_sums(terms_IK, seed)
    items = len(counts_IL)
    equal = items > 0 and len(np.unique(counts_IL.sum(axis=1))) == 1
    return Agreement(
        items=items,
        ratings=int(counts_IL.sum()),
        percent=_figure(_percent, sums_RK, items),
        krippendorff_alpha=_figure(_alpha, sums_RK, items),
        cohen_kappa=_figure(_cohen, sums_RK, items if cells_IC.any() else 0),
        fleiss_kappa=_figure(_fleiss, sums_RK, items if equal else 0),
    )


def majority(labels: Mapping[str, int]) -> int | None:
    """The label that more annotators gave than any other; None where two labels share the lead."""
    ranked = Counter(labels.values()).most_common(2)
    if len(ranked) == 2 and ranked[0][1] == ranked[1][1]:
        return None
    return ranked[0][0]


def _label_counts(ratings: Ratings) -> Floats:
    """How often each label was given to each item, [I, L]."""
    counts_IL = np.zeros((len(ratings), _LABELS))
    for row, labels in enumerate(ratings.values()):
        for label in labels.values():
            counts_IL[row, label] += 1
    return counts_IL


def _two_annotators(ratings: Ratings) -> Floats:
    """One-hot cells of the joint table of two annotators, [I, L * L]; zeros where more than two took part."""
    cells_IC = np.zeros((len(ratings), _LABELS * _LABELS))
    names = sorted({annotator for labels in ratings.values() for annotator in labels})
    if len(names) == 2:
        for row, labels in enumerate(ratings.values()):
            cells_IC[row, labels[names[0]] * _LABELS + labels[names[1]]] = 1
    return cells_IC


def _terms(counts_IL: Floats) -> Floats:
    """Per item, the terms whose sums give every figure: [count, agreement, disagreement, ratings by label]."""
    ratings_I = counts_IL.sum(axis=1)
    squares_I = (counts_IL**2).sum(axis=1)
    agreeing_I = (squares_I - ratings_I) / (ratings_I * (ratings_I - 1))
    differing_I = (ratings_I**2 - squares_I) / (ratings_I - 1)
    return np.column_stack([np.ones(len(counts_IL)), agreeing_I, differing_I, counts_IL])


def _resampled_sums(terms_IK: Floats, seed: int) -> Floats:
    """Sums of the terms: over the items themselves in row 0, then over each resample of the items."""
    items, generator = len(terms_IK), np.random.default_rng(seed)
    resamples = _RESAMPLES if items <= _MANY_ITEMS else _RESAMPLES_OF_MANY
    sums_RK = np.zeros((1 + resamples, terms_IK.shape[1]))
    sums_RK[0] = terms_IK.sum(axis=0)
    for row in range(1, len(sums_RK) if items else 1):
        weights_I = np.bincount(generator.integers(items, size=items), minlength=items)
        sums_RK[row] = weights_I @ terms_IK
    return sums_RK


def _figure(statistic: Callable[[Floats], Floats], sums_RK: Floats, items: int) -> Figure:
    """The statistic of row 0 with the 2.5 and 97.5 percentiles of the others; undefined resamples are left out."""
    if items == 0:
        return Figure(None, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        values_R = statistic(sums_RK)
    if not np.isfinite(values_R[0]):
        return Figure(None, items)
    low, high = np.percentile(values_R[1:][np.isfinite(values_R[1:])], [2.5, 97.5])
    return Figure(float(values_R[0]), items, float(low), float(high))


def _percent(sums_RK: Floats) -> Floats:
    """Mean over items of the share of agreeing pairs of ratings."""
    return sums_RK[:, 1] / sums_RK[:, 0]


def _alpha(sums_RK: Floats) -> Floats:
    """1 - observed / expected disagreement, nominal; undefined where only one label was ever used."""
    labels_RL = sums_RK[:, 3 : 3 + _LABELS]
    total_R = labels_RL.sum(axis=1)
    expected_R = (total_R**2 - (labels_RL**2).sum(axis=1)) / (total_R - 1)
    return 1 - sums_RK[:, 2] / expected_R


def _fleiss(sums_RK: Floats) -> Floats:
    """Agreement above what the pooled label shares would give by chance."""
    labels_RL = sums_RK[:, 3 : 3 + _LABELS]
    chance_R = ((labels_RL / labels_RL.sum(axis=1, keepdims=True)) ** 2).sum(axis=1)
    return (_percent(sums_RK) - chance_R) / (1 - chance_R)


def _cohen(sums_RK: Floats) -> Floats:
    """Agreement of two annotators above what their own label shares would give by chance."""
    joint_RLL = sums_RK[:, 3 + _LABELS :].reshape(-1, _LABELS, _LABELS)
    joint_RLL = joint_RLL / joint_RLL.sum(axis=(1, 2), keepdims=True)
    chance_R = (joint_RLL.sum(axis=1) * joint_RLL.sum(axis=2)).sum(axis=1)
    return (np.trace(joint_RLL, axis1=1, axis2=2) - chance_R) / (1 - chance_R)
