"""Agreement against hand computations, naive counting and PandaLM's published figures."""

import itertools
import json
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenhand.data.agreement import agreement, majority, shared_ratings
from evenhand.data.items import identities
from evenhand.data.schema import Judgment, Message

# Units with missing ratings, two to four observers, in the manner of Krippendorff (2011), section C.
RELIABILITY = [
    {"A": 0, "B": 0, "D": 0},
    {"A": 1, "B": 1, "C": 2, "D": 1},
    {"A": 2, "B": 2, "C": 2, "D": 2},
    {"A": 2, "B": 2, "C": 2, "D": 2},
    {"A": 1, "B": 1, "C": 1, "D": 1},
    {"A": 0, "B": 1, "C": 2},
]


def keyed(units):
    return {str(index).encode(): unit for index, unit in enumerate(units)}


def coincidence_alpha(units):
    """Krippendorff's alpha from the coincidence matrix, pair by pair, with no algebra in common with the product."""
    pairs = Counter()
    for unit in units:
        for (_, one), (_, other) in itertools.permutations(unit.items(), 2):
            pairs[one, other] += 1 / (len(unit) - 1)
    total = sum(pairs.values())
    label = Counter()
    for (one, _), weight in pairs.items():
        label[one] += weight
    observed = sum(weight for (one, other), weight in pairs.items() if one != other) / total
    expected = sum(label[a] * label[b] for a, b in itertools.permutations(label, 2)) / (total * (total - 1))
    return 1 - observed / expected


def test_alpha_equals_the_coincidence_matrix():
    found = agreement(keyed(RELIABILITY)).krippendorff_alpha
    assert found.value == pytest.approx(coincidence_alpha(RELIABILITY), abs=1e-12)
    assert found.n == 6
    assert found.low <= found.value <= found.high


def test_alpha_by_hand():
    # Two items, two annotators: one agrees on label 0, one is split 0/1. Coincidences: (0,0) 2, (0,1) 1, (1,0) 1.
    # Observed disagreement 2/4; expected (3*1 + 1*3) / (4*3) = 1/2; alpha 0.
    found = agreement(keyed([{"A": 0, "B": 0}, {"A": 0, "B": 1}]))
    assert found.krippendorff_alpha.value == pytest.approx(0.0, abs=1e-12)
    assert found.percent.value == pytest.approx(0.5)
    assert found.ratings == 4


@given(
    st.lists(
        st.dictionaries(st.sampled_from("ABCD"), st.integers(0, 2), min_size=2),
        min_size=2,
        max_size=12,
    )
)
def test_alpha_equals_pair_counting_for_any_ratings(units):
    if len({label for unit in units for label in unit.values()}) < 2:
        assert agreement(keyed(units)).krippendorff_alpha.value is None
        return
    assert agreement(keyed(units)).krippendorff_alpha.value == pytest.approx(coincidence_alpha(units), abs=1e-9)


def test_cohen_by_hand():
    # Joint table 0/0: 20, 0/1: 5, 1/0: 10, 1/1: 15 of 50 (the textbook case): kappa 0.4.
    units = [{"A": 0, "B": 0}] * 20 + [{"A": 0, "B": 1}] * 5 + [{"A": 1, "B": 0}] * 10 + [{"A": 1, "B": 1}] * 15
    found = agreement(keyed(units))
    assert found.cohen_kappa.value == pytest.approx(0.4)
    assert found.percent.value == pytest.approx(0.7)


def test_fleiss_by_hand():
    # Three raters, items 3-0, 2-1, 0-3: per item 1, 1/3, 1; shares 5/9 and 4/9; chance 41/81.
    units = [{"A": 0, "B": 0, "C": 0}, {"A": 0, "B": 0, "C": 1}, {"A": 1, "B": 1, "C": 1}]
    want = (7 / 9 - 41 / 81) / (1 - 41 / 81)
    assert agreement(keyed(units)).fleiss_kappa.value == pytest.approx(want)


def test_kappas_only_where_they_apply():
    found = agreement(keyed(RELIABILITY))
    assert found.cohen_kappa.value is None
    assert found.fleiss_kappa.value is None
    assert found.fleiss_kappa.n == 0


def test_interval_is_wider_for_fewer_items_and_the_same_for_the_same_seed():
    units = RELIABILITY * 3
    few, many = agreement(keyed(units)), agreement(keyed(units * 9))
    assert agreement(keyed(units)) == few
    narrow = many.krippendorff_alpha.high - many.krippendorff_alpha.low
    assert narrow < (few.krippendorff_alpha.high - few.krippendorff_alpha.low) / 2


def test_nothing_shared_is_not_measured():
    found = agreement({})
    assert found.krippendorff_alpha.json() == {"value": None, "n": 0, "low": None, "high": None}
    assert found.items == 0


def test_swapped_answers_are_the_same_item_and_a_second_opinion_does_not_count():
    prompt = (Message("user", "Where is my parcel?"),)
    rows = [
        Judgment("1", 0, "0", prompt, "On its way.", "No idea.", "a", "ann"),
        Judgment("2", 1, "1", prompt, "No idea.", "On its way.", "b", "bob"),
        Judgment("3", 2, "2", prompt, "No idea.", "On its way.", "a", "bob"),
        Judgment("4", 3, "3", prompt, "No idea.", "Sorry.", "a", "bob"),
        Judgment("5", 4, "4", prompt, "No idea.", "Sorry.", "a", None),
    ]
    ratings = shared_ratings(rows, identities(rows))
    assert len(ratings) == 1
    (labels,) = ratings.values()
    assert set(labels) == {"ann", "bob"}
    assert labels["ann"] == labels["bob"]


def test_majority():
    assert majority({"A": 0, "B": 0, "C": 1}) == 0
    assert majority({"A": 0, "B": 1}) is None
    assert majority({"A": 2}) == 2


def panda_judgments(path):
    verdict = {"1": "a", "2": "b", "0": "tie"}
    for row, item in enumerate(json.loads(path.read_text())):
        prompt = (Message("user", f"{item['idx']} {item['cmp_key']} {item['instruction']} {item['input']}"),)
        for annotator in ("annotator1", "annotator2", "annotator3"):
            a, b = f"1 {item['response1']}", f"2 {item['response2']}"
            yield Judgment(f"{row}", row, f"{row}", prompt, a, b, verdict[str(item[annotator])], annotator)


def test_pandalm_published_figures():
    folder = os.environ.get("EVENHAND_DATA")
    if folder is None or not (path := Path(folder) / "pandalm_testset.json").is_file():
        pytest.skip("EVENHAND_DATA does not hold pandalm_testset.json")
    rows = list(panda_judgments(path))
    found = agreement(shared_ratings(rows, identities(rows)))
    assert found.items == 999
    assert round(found.krippendorff_alpha.value, 3) == 0.864
    assert round(found.fleiss_kappa.value, 3) == 0.864
    assert found.krippendorff_alpha.low < 0.864 < found.krippendorff_alpha.high
