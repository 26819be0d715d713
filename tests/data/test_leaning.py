"""What length and features tell of the winner, against pair-by-pair counts."""

import random

import pytest
from scipy.stats import rankdata

from evenhand.data.items import ballot_of, identities
from evenhand.data.leaning import category_figures, feature_figures, length_auc
from evenhand.data.measure import measured
from evenhand.data.schema import Judgment, Message


def crowd(seed, count, lean, categories=1):
    """Judgments in which the longer answer wins with chance `lean`."""
    random_ = random.Random(seed)
    for row in range(count):
        a, b = random_.randint(1, 300), random_.randint(1, 300)
        verdict = random_.choice(["tie"] * (row % 10 == 0) + (["a"] if (a > b) == (random_.random() < lean) else ["b"]))
        asked = (Message("user", f"q{row}"),)
        category = f"c{row % categories}" if categories else None
        yield Judgment(f"{row}", row, f"{row}", asked, "x" * a, "y" * b, verdict, "ann", "a", None, category)


def area_by_ranks(rows):
    """The same area from scipy's ranks of the two orders of every judgment: n wins, n losses."""
    ahead = [(len(r.answer_a) - len(r.answer_b)) * (1 if r.verdict == "a" else -1) for r in rows if r.verdict != "tie"]
    ranks = rankdata([*ahead, *(-d for d in ahead)])
    count = len(ahead)
    both = (ranks[:count].sum() - count * (count + 1) / 2) / count**2
    own = sum(0.5 if d == 0 else float(d > 0) for d in ahead)  # each judgment against itself
    return (both * count**2 - own) / (count * (count - 1))


@pytest.mark.parametrize("lean", [0.5, 0.7, 1.0, 0.2])
def test_area_equals_ranks(lean):
    rows = list(crowd(1, 300, lean))
    found = length_auc(map(ballot_of, rows))
    assert found.value == pytest.approx(area_by_ranks(rows), abs=1e-12)
    assert found.low <= found.value <= found.high
    assert found.n == sum(own.verdict != "tie" for own in rows)


def test_interval_covers_one_half_in_nineteen_of_twenty():
    intervals = [length_auc(map(ballot_of, crowd(seed, 80, 0.5))) for seed in range(400)]
    assert 0.91 < sum(own.low <= 0.5 <= own.high for own in intervals) / 400 < 0.98


def test_nothing_to_tell():
    assert length_auc([]).value is None
    assert length_auc([ballot_of(own) for own in crowd(0, 1, 1.0)]).value is None


def test_features_count_only_where_one_answer_has_them():
    asked = (Message("user", "q"),)
    told = [
        ("- one\n- two", "plain", "a"),
        ("plain", "- one\n- two", "a"),
        ("- one\n- two", "* one\n* two", "a"),
        ("plain", "- one\n- two", "b"),
        ("plain", "- one\n- two", "tie"),
        ("**bold**", "So sorry to hear that.", "b"),
    ]
    rows = [Judgment(f"{at}", at, f"{at}", asked, a, b, verdict) for at, (a, b, verdict) in enumerate(told)]
    found = feature_figures([ballot_of(own) for own in rows], measured(rows).marks_N.tolist())
    assert (found["list"].value, found["list"].n) == (pytest.approx(2 / 3), 3)
    assert (found["markdown"].value, found["markdown"].n) == (0.0, 1)
    assert (found["apology"].value, found["apology"].n) == (1.0, 1)
    assert (found["refusal"].value, found["refusal"].n) == (None, 0)


def test_categories_stand_alone():
    rows = list(crowd(3, 400, 0.8, categories=3))
    found = category_figures([ballot_of(own) for own in rows], identities(rows))
    assert [own.name for own in found] == ["c0", "c1", "c2"]
    for figures in found:
        mine = [own for own in rows if own.category == figures.name]
        assert figures.judgments == len(mine)
        assert figures.length_only_auc == length_auc(map(ballot_of, mine))
    assert category_figures([ballot_of(own) for own in crowd(3, 40, 0.8, categories=0)], ()) == ()
