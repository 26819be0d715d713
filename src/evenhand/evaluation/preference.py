"""How often a model agrees with held-out preferences: overall, by length and by category.

Everything here follows from the per-pair table of `evenhand score`, so any figure can be computed again from the file.
Shapes: B pairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from evenhand.data.schema import PreferencePair
from evenhand.errors import DataError
from evenhand.evaluation.interval import Floats, Integers, Mask, Sample, balanced, family_codes, share, spearman
from evenhand.evaluation.length_control import length_controlled
from evenhand.figure import Figure
from evenhand.model.scores import ScoredPairs

Slices = dict[str, dict[str, Mask]]


@dataclass(frozen=True, slots=True)
class PairTraits:
    """What the scores do not tell about B pairs: the category and the family each belongs to, None where unknown.

    `columns` are others to slice by, by name.
    """

    category_B: tuple[str | None, ...]
    family_B: tuple[str | None, ...]
    columns: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)

    @classmethod
    def unknown(cls, count: int) -> "PairTraits":
        """No categories, and every pair a family of its own."""
        return cls((None,) * count, (None,) * count)

    def with_columns(self, columns: Mapping[str, tuple[str | None, ...]]) -> "PairTraits":
        """The same with more to slice by."""
        return replace(self, columns={**self.columns, **columns})

    @classmethod
    def of(cls, scored: ScoredPairs, pairs: Sequence[PreferencePair]) -> "PairTraits":
        """The traits of the scored pairs, found by row and id.

        A pair without a family belongs to its group: the pairs of one ranking share answers and are no independent
        draws. Raises DataError where a scored pair is not among `pairs`.
        """
        known = {(pair.row, pair.id): pair for pair in pairs}
        keys = list(zip(scored.row_B.tolist(), scored.id_B))
        if missing := [key for key in keys if key not in known]:
            row, name = missing[0]
            raise DataError(
                f"{len(missing)} scored pairs are not in the data, the first is row {row} with id {name!r}; "
                "evaluate with the file that was scored."
            )
        found = [known[key] for key in keys]
        families = tuple(f"family {p.family}" if p.family is not None else f"group {p.group}" for p in found)
        return cls(tuple(pair.category for pair in found), families)


@dataclass(frozen=True, slots=True)
class PreferenceEvaluation:
    """Agreement with held-out preferences; `spearman_length` is over all 2B answers.

    `length_controlled_accuracy` is what a logistic model gives for answers of equal length. `slices` gives pairwise accuracy by `longer_side`, `length_difference_quartile` and, where given, `category`.
    """

    pairwise_accuracy: Figure
    length_balanced_accuracy: Figure
    accuracy_by_sum: Figure
    spearman_length: Figure
    n: int
    slices: dict[str, dict[str, Figure]] = field(default_factory=dict)
    length_controlled_accuracy: Figure = field(default_factory=lambda: Figure(None, 0))

    def json(self) -> dict[str, Any]:
        """The shape that `evenhand evaluate --json` and reports state."""
        return {
            "pairwise_accuracy": self.pairwise_accuracy.json(),
            "length_balanced_accuracy": self.length_balanced_accuracy.json(),
            "accuracy_by_sum": self.accuracy_by_sum.json(),
            "slices": {
                name: {value: figure.json() for value, figure in by_value.items()}
                for name, by_value in self.slices.items()
            },
            "spearman_length": self.spearman_length.json(),
            "length_controlled_accuracy": self.length_controlled_accuracy.json(),
            "n": self.n,
        }


def evaluate_pairs(scored: ScoredPairs, traits: PairTraits | None = None) -> PreferenceEvaluation:
    """Evaluate scores against the preferences they stand for; a gap of exactly 0 counts one half.

    Raises DataError where there is no pair, or where a score is not a finite number.
    """
    refuse_unusable(scored)
    traits = traits or PairTraits.unknown(len(scored))
    family_B = family_codes(traits.family_B, len(scored))
    won = Sample(wins(scored.mean_gap_B), family_B)
    shorter, longer = (won.where(side_B) for side_B in unequal_sides(scored))
    return PreferenceEvaluation(
        pairwise_accuracy=share(won),
        length_balanced_accuracy=balanced(shorter, longer, (share(shorter), share(longer))),
        accuracy_by_sum=by_sum(scored, share(Sample(wins(scored.sum_gap_B), family_B))),
        spearman_length=_spearman_length(scored, family_B),
        n=len(scored),
        slices={
            name: {value: share(won.where(mask_B)) for value, mask_B in by_value.items()}
            for name, by_value in slices_of(scored, traits).items()
        },
        length_controlled_accuracy=length_controlled(won, _longer_by(scored)).share,
    )


def by_sum(scored: ScoredPairs, found: Figure) -> Figure:
    """A figure of sums; none for rewards, which have no sum."""
    return Figure(None, 0) if scored.are_rewards else found


def refuse_unusable(scored: ScoredPairs) -> None:
    """Raise DataError for scores from which no honest figure follows."""
    if len(scored) == 0:
        raise DataError("there is no scored pair to evaluate; give held-out data with at least one usable row.")
    counted_B = (scored.chosen_tokens_B > 0) & (scored.rejected_tokens_B > 0)
    usable_B = np.isfinite(scored.chosen_sum_B) & np.isfinite(scored.rejected_sum_B) & counted_B
    if not usable_B.all():
        bad = np.flatnonzero(~usable_B)
        raise DataError(
            f"{len(bad)} of {len(scored)} pairs have a score that is not finite or an answer without tokens, the first "
            f"is row {scored.row_B[bad[0]]} with id {scored.id_B[bad[0]]!r}; score the data again with --dtype float32."
        )


def wins(gap_B: Floats) -> Floats:
    """1 where the chosen answer scores higher, 0 where the rejected one does, one half for a tie.

    >>> wins(np.array([0.2, -0.1, 0.0])).tolist()
    [1.0, 0.0, 0.5]
    """
    return (np.sign(gap_B) + 1) / 2


def unequal_sides(scored: ScoredPairs) -> tuple[Mask, Mask]:
    """The pairs whose chosen answer is the shorter one, and those whose chosen answer is the longer one."""
    return (
        scored.chosen_tokens_B < scored.rejected_tokens_B,
        scored.chosen_tokens_B > scored.rejected_tokens_B,
    )


def slices_of(scored: ScoredPairs, traits: PairTraits) -> Slices:
    """Which pairs belong to which slice; categories and columns only where at least one pair has one."""
    shorter_B, longer_B = unequal_sides(scored)
    slices: Slices = {
        "longer_side": {"chosen_shorter": shorter_B, "chosen_longer": longer_B, "equal": ~(shorter_B | longer_B)},
        "length_difference_quartile": _quartiles(scored),
    }
    for column, value_B in {"category": traits.category_B, **traits.columns}.items():
        if values := sorted({value for value in value_B if value is not None}):
            slices[column] = {value: np.array([own == value for own in value_B]) for value in values}
    return slices


def _quartiles(scored: ScoredPairs) -> dict[str, Mask]:
    """Quartiles of chosen minus rejected tokens; q1 holds the relatively shortest chosen answers.

    Equal differences stay together, so that quartiles need not be equal in size.
    """
    difference_B = scored.chosen_tokens_B - scored.rejected_tokens_B
    place_B = np.searchsorted(np.quantile(difference_B, [0.25, 0.5, 0.75]), difference_B)
    return {f"q{place + 1}": place_B == place for place in range(4)}


def _longer_by(scored: ScoredPairs) -> Floats:
    """Chosen minus rejected, in tokens."""
    return (scored.chosen_tokens_B - scored.rejected_tokens_B).astype(np.float64)


def _spearman_length(scored: ScoredPairs, family_B: Integers) -> Figure:
    """Rank correlation of mean log-probability and length over all answers: how far length alone explains a score."""
    means = np.concatenate([scored.chosen_mean_B, scored.rejected_mean_B])
    lengths = np.concatenate([scored.chosen_tokens_B, scored.rejected_tokens_B]).astype(np.float64)
    return spearman(Sample(means, np.concatenate([family_B, family_B])), lengths)
