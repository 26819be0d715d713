"""Preference figures against plain Python over the same rows."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evenhand.data.schema import Message, PreferencePair
from evenhand.errors import DataError
from evenhand.evaluation.preference import PairTraits, evaluate_pairs
from evenhand.model.scores import ScoredPairs

ROWS = st.lists(
    st.tuples(st.integers(-90, -1), st.integers(-90, -1), st.integers(1, 12), st.integers(1, 12)),
    min_size=1,
    max_size=40,
)


def scored_from(rows) -> ScoredPairs:
    chosen, rejected, chosen_tokens, rejected_tokens = (np.array(column) for column in zip(*rows))
    ids = tuple(f"p{i}" for i in range(len(rows)))
    sums = chosen.astype(np.float64), rejected.astype(np.float64)
    return ScoredPairs(np.arange(len(rows)), ids, *sums, chosen_tokens, rejected_tokens)


def realistic(count: int = 240, seed: int = 0) -> ScoredPairs:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(5, 90, (2, count))
    sums = -tokens * rng.gamma(4, 0.4, (2, count))
    return ScoredPairs(np.arange(count), tuple(f"p{i}" for i in range(count)), sums[0], sums[1], tokens[0], tokens[1])


def credit(left: float, right: float) -> float:
    return 1.0 if left > right else 0.5 if left == right else 0.0


def mean(values) -> float | None:
    values = list(values)
    return sum(values) / len(values) if values else None


@given(ROWS)
def test_every_value_is_what_plain_python_counts(rows):
    found = evaluate_pairs(scored_from(rows))
    by_mean = [credit(c / m, r / n) for c, r, m, n in rows]
    assert found.pairwise_accuracy.value == pytest.approx(mean(by_mean))
    assert found.accuracy_by_sum.value == pytest.approx(mean(credit(c, r) for c, r, _, _ in rows))
    sides = {
        "chosen_shorter": mean(w for w, (_, _, m, n) in zip(by_mean, rows) if m < n),
        "chosen_longer": mean(w for w, (_, _, m, n) in zip(by_mean, rows) if m > n),
        "equal": mean(w for w, (_, _, m, n) in zip(by_mean, rows) if m == n),
    }
    assert {k: f.value for k, f in found.slices["longer_side"].items()} == pytest.approx(sides)
    shorter, longer = sides["chosen_shorter"], sides["chosen_longer"]
    balanced = None if shorter is None or longer is None else (shorter + longer) / 2
    assert found.length_balanced_accuracy.value == pytest.approx(balanced)
    assert found.length_balanced_accuracy.n == sum(m != n for _, _, m, n in rows)


@given(ROWS)
def test_quartiles_share_out_all_pairs_in_order(rows):
    scored = scored_from(rows)
    quartiles = evaluate_pairs(scored).slices["length_difference_quartile"]
    assert list(quartiles) == ["q1", "q2", "q3", "q4"]
    assert sum(figure.n for figure in quartiles.values()) == len(rows)
    ordered = sorted(m - n for _, _, m, n in rows)
    assert quartiles["q1"].n == sum(d <= np.percentile(ordered, 25) for d in ordered)


def test_spearman_is_scipys_over_all_answers():
    scored = realistic()
    expected = stats.spearmanr(
        [*scored.chosen_mean_B, *scored.rejected_mean_B], [*scored.chosen_tokens_B, *scored.rejected_tokens_B]
    )
    found = evaluate_pairs(scored).spearman_length
    assert found.value == pytest.approx(expected.statistic)
    assert found.n == 480


def test_json_has_exactly_the_promised_names():
    traits = PairTraits(("billing", "refund") * 120, (None,) * 240)
    found = evaluate_pairs(realistic(), traits).json()
    assert set(found) == {
        "pairwise_accuracy",
        "length_balanced_accuracy",
        "accuracy_by_sum",
        "slices",
        "spearman_length",
        "length_controlled_accuracy",
        "n",
    }
    assert set(found["slices"]) == {"longer_side", "length_difference_quartile", "category"}
    assert set(found["slices"]["category"]) == {"billing", "refund"}
    assert set(found["pairwise_accuracy"]) == {"value", "n", "low", "high"}
    assert found["n"] == 240
    assert "category" not in evaluate_pairs(realistic()).json()["slices"]


def test_categories_leave_out_pairs_without_one():
    scored = realistic(6)
    found = evaluate_pairs(scored, PairTraits(("a", None, "a", "b", None, "b"), (None,) * 6)).slices["category"]
    gaps = scored.chosen_sum_B / scored.chosen_tokens_B - scored.rejected_sum_B / scored.rejected_tokens_B
    assert found["a"].value == mean([float(gaps[0] > 0), float(gaps[2] > 0)])
    assert found["b"].n == 2


def test_figures_can_be_computed_again_from_the_parquet_file(tmp_path: Path):
    scored = realistic()
    pq.write_table(scored.table(), tmp_path / "rows.parquet")
    assert evaluate_pairs(ScoredPairs.read(tmp_path / "rows.parquet")).json() == evaluate_pairs(scored).json()


def test_order_of_pairs_does_not_matter():
    scored = realistic()
    back = ScoredPairs(
        scored.row_B[::-1],
        scored.id_B[::-1],
        scored.chosen_sum_B[::-1],
        scored.rejected_sum_B[::-1],
        scored.chosen_tokens_B[::-1],
        scored.rejected_tokens_B[::-1],
    )
    one, two = evaluate_pairs(scored), evaluate_pairs(back)
    assert two.pairwise_accuracy == one.pairwise_accuracy
    assert two.spearman_length.low == pytest.approx(one.spearman_length.low)


def test_a_length_cheat_is_seen_by_the_balanced_accuracy():
    rng = np.random.default_rng(2)
    chosen, rejected = rng.integers(40, 80, 200), rng.integers(10, 40, 200)
    chosen[:30], rejected[:30] = rejected[:30].copy(), chosen[:30].copy()
    likes_length = ScoredPairs(
        np.arange(200), tuple(map(str, range(200))), -1.0 * np.ones(200), -np.ones(200), chosen, rejected
    )
    found = evaluate_pairs(likes_length)
    assert found.pairwise_accuracy.value == pytest.approx(0.85)
    assert found.length_balanced_accuracy.value == 0.5


def pair(row: int, family: str | None, group: str = "g") -> PreferencePair:
    prompt = (Message("user", "Where is my parcel?"),)
    return PreferencePair(f"p{row}", row, group, prompt, "On its way.", "No idea.", "parcels", family)


def test_traits_follow_the_scored_rows_and_fall_back_to_the_group():
    scored = realistic(3)
    traits = PairTraits.of(scored, [pair(2, None), pair(0, "f"), pair(1, None)])
    assert traits.category_B == ("parcels",) * 3
    assert traits.family_B[1] == traits.family_B[2] != traits.family_B[0]


def test_traits_refuse_other_data():
    with pytest.raises(DataError, match=r"1 scored pairs are not in the data, the first is row 2 with id 'p2'"):
        PairTraits.of(realistic(3), [pair(0, None), pair(1, None)])


def test_families_widen_the_interval():
    scored = scored_from([row for row in [(-9, -12, 3, 4), (-12, -9, 3, 4), (-4, -9, 4, 3)] * 20 for _ in range(4)])
    traits = PairTraits((None,) * 240, tuple(str(i // 4) for i in range(240)))
    alone, together = evaluate_pairs(scored).pairwise_accuracy, evaluate_pairs(scored, traits).pairwise_accuracy
    assert together.value == alone.value
    assert together.high - together.low > 1.8 * (alone.high - alone.low)


def test_no_pair_and_scores_that_are_not_finite_are_refused():
    with pytest.raises(DataError, match="no scored pair"):
        evaluate_pairs(realistic(0))
    broken = realistic(5)
    broken.rejected_sum_B[3] = np.nan
    with pytest.raises(DataError, match=r"1 of 5 pairs .* row 3 with id 'p3'"):
        evaluate_pairs(broken)
