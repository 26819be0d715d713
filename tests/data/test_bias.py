"""Annotators with a habit are named, honest ones are not, and the test statistic equals one computed by hand."""

import math
import random

import numpy as np
import pytest
from scipy.stats import binomtest, hypergeom

from evenhand.data.bias import (
    BiasRule,
    Trials,
    annotator_figures,
    annotators_at_odds,
    first_won,
    length_trials,
    longer_won,
    share,
    share_of_true,
)
from evenhand.data.bias import _against_others as against_others
from evenhand.data.items import ballot_of, identities
from evenhand.data.schema import Judgment, Message

RULE = BiasRule()


def judged(row, annotator, verdict, *, a="x" * 40, b="y" * 20, shown_first=None, prompt=None, category=None):
    asked = (Message("user", prompt or f"question {row}"),)
    return Judgment(f"j{row}", row, f"{row}", asked, a, b, verdict, annotator, shown_first, None, category)


def crowd(seed, annotators, rows, longer=(), first=(), inverted=(), shared=False, honest=0.55):
    """Judgments where honest annotators take the better answer, which is the longer one with probability `honest`."""
    random_ = random.Random(seed)
    out = []
    for row in range(rows):
        long_is_better = random_.random() < honest
        for annotator in random_.sample(range(annotators), 3) if shared else [random_.randrange(annotators)]:
            long_is_a = random_.random() < 0.5
            better_is_a = long_is_a == long_is_better
            choice = better_is_a if random_.random() < 0.85 else not better_is_a
            shown_first = "a" if random_.random() < 0.5 else "b"
            if annotator in longer and random_.random() < 0.9:
                choice = long_is_a
            if annotator in first and random_.random() < 0.9:
                choice = shown_first == "a"
            if annotator in inverted:
                choice = not better_is_a
            long, short = f"{row} " + "l" * 200, f"{row} " + "s" * 90
            a, b = (long, short) if long_is_a else (short, long)
            out.append(
                judged(
                    len(out),
                    f"ann-{annotator}",
                    "a" if choice else "b",
                    a=a,
                    b=b,
                    shown_first=shown_first,
                    prompt=f"question {row}",
                )
            )
    return out


def ballots(rows):
    return [ballot_of(row) for row in rows]


def names(rows):
    return {(naming.annotator, naming.habit) for naming in annotators_at_odds(ballots(rows), identities(rows), RULE)}


@pytest.mark.parametrize("seed", range(5))
def test_both_biased_annotators_are_named_and_nobody_else(seed):
    rows = crowd(seed, annotators=8, rows=1600, longer=(2,), first=(5,))
    assert names(rows) == {("ann-2", "takes_longer"), ("ann-5", "takes_first")}


@pytest.mark.parametrize("seed", range(5))
def test_two_of_five_with_the_same_habit_are_both_named(seed):
    rows = crowd(seed, annotators=5, rows=1000, longer=(0, 3))
    assert names(rows) == {("ann-0", "takes_longer"), ("ann-3", "takes_longer")}


def test_an_honest_crowd_is_left_alone():
    named = [crowd(seed, annotators=10, rows=500, shared=seed % 2 == 0) for seed in range(30)]
    assert [names(rows) for rows in named] == [set()] * 30


def test_an_inverted_annotator_disagrees():
    rows = crowd(1, annotators=6, rows=400, shared=True, inverted=(4,))
    assert ("ann-4", "disagrees") in names(rows)
    assert {annotator for annotator, _ in names(rows)} == {"ann-4"}


def test_longer_items_do_not_make_an_annotator_look_biased():
    """One annotator gets the items where everybody takes the longer answer; the others get both kinds."""
    random_ = random.Random(7)
    rows = []
    for row in range(1200):
        easy = row % 2 == 0
        annotator = "picky" if easy and row % 4 == 0 else f"ann-{row % 5}"
        wins = random_.random() < (0.9 if easy else 0.2)
        long = "l" * (400 if easy else 120)
        rows.append(judged(row, annotator, "a" if wins else "b", a=long, b="s" * 100))
    overall = share_of_true([longer_won(row) for row in ballots(rows)])
    picky = share_of_true([longer_won(row) for row in ballots(rows) if row.annotator == "picky"])
    assert picky.value - overall.value > 0.2
    assert names(rows) == set()


def test_two_annotators_are_too_few_to_say_who_is_odd():
    rows = [judged(row, f"ann-{row % 2}", "a" if row % 2 else "b") for row in range(200)]
    assert names(rows) == set()


def test_expectation_and_variance_are_hypergeometric():
    annotator = np.array([0] * 6 + [1] * 10 + [2] * 4 + [0] * 3 + [1] * 5)
    stratum = np.array([0] * 20 + [1] * 8)
    shown = np.array([1, 1, 1, 1, 1, 0] + [1] * 4 + [0] * 6 + [1, 0, 0, 0] + [1, 1, 0] + [0, 0, 1, 0, 0], bool)
    got = against_others(Trials(("p", "q", "r"), annotator, stratum, shown))
    one, two = hypergeom(20, 10, 6), hypergeom(8, 3, 3)
    assert got[0][0] == 7
    assert got[1][0] == 9
    assert got[2][0] == pytest.approx(one.mean() + two.mean())
    assert got[3][0] == pytest.approx(one.var() + two.var())
    assert got[4][0] == pytest.approx((6 * 5 / 14 + 3 * 1 / 5) / 9)
    assert got[1][2] == 4  # nobody of r is in stratum 1


def test_wilson_interval_equals_scipy():
    want = binomtest(37, 51).proportion_ci(method="wilson")
    got = share(37, 51)
    assert (got.low, got.high) == pytest.approx((want.low, want.high), rel=1e-12)
    assert share(0, 0).value is None
    assert share(0, 9).low == 0.0


def test_length_and_place_of_one_judgment():
    assert longer_won(ballot_of(judged(0, None, "a"))) is True
    assert longer_won(ballot_of(judged(0, None, "b"))) is False
    assert longer_won(ballot_of(judged(0, None, "tie"))) is None
    assert longer_won(ballot_of(judged(0, None, "a", a="xx", b="yy"))) is None
    assert first_won(ballot_of(judged(0, None, "a"))) is None
    assert first_won(ballot_of(judged(0, None, "a", shown_first="b"))) is False


def test_strata_hold_like_length_ratios():
    rows = [judged(row, "ann", "a", a="x" * (row + 2), b="y") for row in range(800)]
    trials = length_trials(ballots(rows))
    assert len(set(trials.stratum_T.tolist())) == 8
    sizes = np.bincount(trials.stratum_T)
    assert sizes.min() >= 95
    first = [math.log((row + 3) / 2) for row in range(800)]
    assert max(r for r, s in zip(first, trials.stratum_T) if s == 0) <= min(
        r for r, s in zip(first, trials.stratum_T) if s == 1
    )


def test_figures_of_each_annotator():
    rows = crowd(3, annotators=4, rows=200, longer=(1,), shared=True)
    found = {one.name: one for one in annotator_figures(ballots(rows), identities(rows), ())}
    mine = [row for row in rows if row.annotator == "ann-1"]
    longer = sum((len(row.answer_a) > len(row.answer_b)) == (row.verdict == "a") for row in mine)
    assert found["ann-1"].judgments == len(mine)
    assert found["ann-1"].takes_longer == share(longer, len(mine))
    assert found["ann-1"].disagrees.value > found["ann-2"].disagrees.value
    assert found["ann-1"].json()["named_for"] == []
