"""What changed between two models on the same pairs: after minus before, paired pair by pair."""

from collections import Counter

import numpy as np

from evenhand.errors import DataError
from evenhand.evaluation.generate import Generation
from evenhand.evaluation.interval import Floats, Integers, Sample, balanced, family_codes, mean_difference, student_mean
from evenhand.evaluation.preference import PairTraits, by_sum, refuse_unusable, slices_of, unequal_sides, wins
from evenhand.figure import Figure
from evenhand.model.scores import ScoredPairs


def difference(before: ScoredPairs, after: ScoredPairs, traits: PairTraits | None = None) -> dict[str, Figure]:
    """The paired differences of `pairwise_accuracy`, `length_balanced_accuracy` and `accuracy_by_sum`.

    `traits` belong to `before`. Pairs are matched by row and id, in any order; which answer is longer is told by
    `before`'s token counts, one yardstick for both. Raises DataError where the two do not hold the same pairs.
    """
    after = matched(before, after)
    family_B = families_of(before, traits)
    by_mean = Sample(moved(before.mean_gap_B, after.mean_gap_B), family_B)
    summed = Sample(moved(before.sum_gap_B, after.sum_gap_B), family_B)
    shorter, longer = (by_mean.where(side_B) for side_B in unequal_sides(before))
    return {
        "pairwise_accuracy": mean_difference(by_mean),
        "length_balanced_accuracy": balanced(shorter, longer, (mean_difference(shorter), mean_difference(longer))),
        "accuracy_by_sum": by_sum(before, by_sum(after, mean_difference(summed))),
    }


def difference_by_slice(
    before: ScoredPairs, after: ScoredPairs, traits: PairTraits | None = None
) -> dict[str, dict[str, Figure]]:
    """The paired difference of pairwise accuracy within each slice, named as in an evaluation."""
    after = matched(before, after)
    traits = traits or PairTraits.unknown(len(before))
    change = Sample(moved(before.mean_gap_B, after.mean_gap_B), families_of(before, traits))
    return {
        name: {value: mean_difference(change.where(mask_B)) for value, mask_B in by_value.items()}
        for name, by_value in slices_of(before, traits).items()
    }


def difference_of_replies(before: Generation, after: Generation) -> dict[str, Figure]:
    """The paired differences of `ended` and `repetition`, prompt by prompt, and of `reward` where both replies have one.

    Raises DataError where the two did not answer the same prompts in the same order.
    """
    if [reply.prompt for reply in before.replies] != [reply.prompt for reply in after.replies]:
        raise DataError(
            f"the two models did not answer the same prompts ({len(before.replies)} and {len(after.replies)} replies); "
            "generate both from the same held-out prompts."
        )
    family_B = family_codes(before.family, len(before.replies))
    pairs = list(zip(before.replies, after.replies))
    ended_B = np.array([float(two.ended) - float(one.ended) for one, two in pairs], dtype=np.float64)
    repetition_B = np.array([two.repetition - one.repetition for one, two in pairs], dtype=np.float64)
    return {
        "ended": mean_difference(Sample(ended_B, family_B)),
        "repetition": student_mean(Sample(repetition_B, family_B)).within(-1.0, 1.0),
        **_reward_difference(before, after, family_B),
    }


def _reward_difference(before: Generation, after: Generation, family_B: Integers) -> dict[str, Figure]:
    if before.reward.value is None or after.reward.value is None:
        return {}
    change_B = after.reward_B - before.reward_B
    return {"reward": student_mean(Sample(change_B, family_B).where(~np.isnan(change_B)))}


def matched(before: ScoredPairs, after: ScoredPairs) -> ScoredPairs:
    """`after` in the order of `before`; raises DataError where a pair stands on one side only or twice."""
    refuse_unusable(before)
    refuse_unusable(after)
    place = {key: i for i, key in enumerate(_keys(after))}
    wanted = _keys(before)
    one_sided = set(wanted) ^ place.keys()
    if one_sided or len(place) != len(after) or len(set(wanted)) != len(before):
        row, name = min(one_sided) if one_sided else _first_twice(wanted, _keys(after))
        raise DataError(
            f"the two models were not scored on the same pairs ({len(before)} and {len(after)} rows, {len(one_sided)} "
            f"on one side only): see row {row} with id {name!r}; score what is missing with `evenhand score MODEL DATA --out "
            "rows.parquet`, or name the models and the data (`--data`) instead of kept scores."
        )
    return _taken(after, np.array([place[key] for key in wanted], dtype=np.int64))


def _keys(scored: ScoredPairs) -> list[tuple[int, str]]:
    return list(zip(scored.row_B.tolist(), scored.id_B))


def _first_twice(*sides: list[tuple[int, str]]) -> tuple[int, str]:
    """The first key that one of the sides holds more than once."""
    return min(key for keys in sides for key, times in Counter(keys).items() if times > 1)


def _taken(scored: ScoredPairs, place_B: Integers) -> ScoredPairs:
    return ScoredPairs(
        scored.row_B[place_B],
        tuple(scored.id_B[place] for place in place_B),
        scored.chosen_sum_B[place_B],
        scored.rejected_sum_B[place_B],
        scored.chosen_tokens_B[place_B],
        scored.rejected_tokens_B[place_B],
        scored.are_rewards,
    )


def families_of(before: ScoredPairs, traits: PairTraits | None) -> Integers:
    """The number of each pair's family; every pair is one of its own where nothing is known."""
    return family_codes(traits.family_B if traits else None, len(before))


def moved(gap_before_B: Floats, gap_after_B: Floats) -> Floats:
    """1 where a pair went from wrong to right, -1 the other way, halves to and from ties."""
    return wins(gap_after_B) - wins(gap_before_B)
