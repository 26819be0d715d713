"""Paired differences against the two evaluations they lie between."""

from dataclasses import replace

import numpy as np
import pytest

from evenhand.errors import DataError
from evenhand.evaluation.difference import difference, difference_by_slice, matched
from evenhand.evaluation.preference import PairTraits, evaluate_pairs
from evenhand.model.scores import ScoredPairs


def scored(count: int = 200, seed: int = 0) -> ScoredPairs:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(5, 40, (2, count))
    sums = -tokens * rng.gamma(4, 0.4, (2, count)).round(1)
    return ScoredPairs(np.arange(count), tuple(f"p{i}" for i in range(count)), sums[0], sums[1], tokens[0], tokens[1])


def improved(before: ScoredPairs, by_nats: float, seed: int = 1) -> ScoredPairs:
    noise = np.random.default_rng(seed).normal(by_nats, 0.5, len(before))
    return replace(before, chosen_sum_B=before.chosen_sum_B + noise * before.chosen_tokens_B)


def shuffled(of: ScoredPairs, seed: int = 3) -> ScoredPairs:
    order = np.random.default_rng(seed).permutation(len(of))
    arrays = (of.chosen_sum_B, of.rejected_sum_B, of.chosen_tokens_B, of.rejected_tokens_B)
    return ScoredPairs(of.row_B[order], tuple(of.id_B[i] for i in order), *(array[order] for array in arrays))


def test_each_difference_is_after_minus_before():
    before, after = scored(), improved(scored(), 0.4)
    found, one, two = difference(before, after), evaluate_pairs(before), evaluate_pairs(after)
    assert list(found) == ["pairwise_accuracy", "length_balanced_accuracy", "accuracy_by_sum"]
    for name, figure in found.items():
        assert figure.value == pytest.approx(getattr(two, name).value - getattr(one, name).value)
        assert figure.low < figure.value < figure.high
    assert found["pairwise_accuracy"].n == 200
    assert found["length_balanced_accuracy"].n == one.length_balanced_accuracy.n


def test_slices_are_after_minus_before_too():
    before, after = scored(), improved(scored(), 0.4)
    traits = PairTraits(("x", "y") * 100, (None,) * 200)
    found = difference_by_slice(before, after, traits)
    one, two = evaluate_pairs(before, traits).slices, evaluate_pairs(after, traits).slices
    assert {name: list(values) for name, values in found.items()} == {name: list(v) for name, v in one.items()}
    for name, values in found.items():
        for value, figure in values.items():
            assert figure.n == one[name][value].n
            if figure.n:
                assert figure.value == pytest.approx(two[name][value].value - one[name][value].value)


def test_pairing_tells_more_than_two_separate_intervals():
    before, after = scored(), improved(scored(), 0.1)
    paired = difference(before, after)["pairwise_accuracy"]
    one, two = evaluate_pairs(before).pairwise_accuracy, evaluate_pairs(after).pairwise_accuracy
    unpaired = np.hypot(one.high - one.low, two.high - two.low)
    assert paired.high - paired.low < 0.9 * unpaired


def test_order_of_rows_does_not_matter():
    before, after = scored(), improved(scored(), 0.4)
    assert difference(before, shuffled(after)) == difference(before, after)
    assert np.array_equal(matched(before, shuffled(after)).chosen_sum_B, after.chosen_sum_B)


def test_swapping_the_models_turns_the_sign():
    before, after = scored(), improved(scored(), 0.4)
    there, back = difference(before, after), difference(after, before)
    for name, figure in there.items():
        assert (back[name].value, back[name].low, back[name].high) == pytest.approx(
            (-figure.value, -figure.high, -figure.low)
        )


def test_the_same_model_twice_is_no_difference():
    figure = difference(scored(), scored())["pairwise_accuracy"]
    assert figure.value == 0
    assert figure.low == -figure.high
    assert 0 < figure.high < 0.02


def test_families_widen_the_interval():
    before = scored(50)
    fourfold = ScoredPairs(
        np.arange(200),
        tuple(map(str, range(200))),
        *(np.repeat(column, 4) for column in (before.chosen_sum_B, before.rejected_sum_B)),
        *(np.repeat(column, 4) for column in (before.chosen_tokens_B, before.rejected_tokens_B)),
    )
    move = np.repeat(np.random.default_rng(1).normal(0.4, 0.5, 50), 4)
    after = replace(fourfold, chosen_sum_B=fourfold.chosen_sum_B + move * fourfold.chosen_tokens_B)
    traits = PairTraits((None,) * 200, tuple(str(i // 4) for i in range(200)))
    alone = difference(fourfold, after)["pairwise_accuracy"]
    together = difference(fourfold, after, traits)["pairwise_accuracy"]
    assert together.high - together.low > 1.8 * (alone.high - alone.low)


def test_other_rows_are_refused_by_name():
    before = scored()
    other = replace(before, id_B=("stranger", *before.id_B[1:]))
    with pytest.raises(DataError, match=r"200 and 200 rows, 2 on one side only\): see row 0 with id 'p0'"):
        difference(before, other)
    twice = replace(before, id_B=("p1", *before.id_B[1:]), row_B=np.array([1, *before.row_B[1:]]))
    with pytest.raises(DataError, match=r"row 1 with id 'p1'"):
        difference(twice, twice)
