"""The sentence says better only where the interval excludes zero."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenhand.evaluation.verdict import points, verdict, verdict_on_rewards, word_for
from evenhand.figure import Figure

BEFORE, AFTER = Figure(0.54, 200, 0.47, 0.61), Figure(0.665, 200, 0.6, 0.73)


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_a_word_is_firm_only_where_the_interval_excludes_zero(one, two):
    low, high = sorted((one, two))
    word = word_for(Figure((low + high) / 2, 10, low, high))
    assert (word == "undecided") == (low <= 0 <= high)
    assert (word == "better") == (low > 0)


def test_without_an_interval_nothing_is_better():
    assert word_for(Figure(0.9, 3)) == "undecided"
    assert verdict(BEFORE, AFTER, {"pairwise_accuracy": Figure(None, 0)}).word == "undecided"


def test_the_sentence_carries_all_numbers():
    said = verdict(BEFORE, AFTER, {"pairwise_accuracy": Figure(0.125, 200, 0.061, 0.189)})
    assert said.title == "Better"
    assert said.sentence == (
        "On 200 held-out pairs the model prefers the chosen answer 66.5 % of the time, up from 54.0 % "
        "(+12.5 points, 95 % interval +6.1 to +18.9)."
    )


def test_undecided_and_worse_say_so():
    undecided = verdict(BEFORE, AFTER, {"pairwise_accuracy": Figure(0.02, 200, -0.04, 0.08)})
    assert undecided.title == "Not shown to be better"
    assert undecided.sentence.endswith("(+2.0 points, 95 % interval −4.0 to +8.0); the interval includes zero.")
    worse = verdict(AFTER, BEFORE, {"pairwise_accuracy": Figure(-0.125, 200, -0.189, -0.061)})
    assert worse.title == "Worse"
    assert "54.0 % of the time, down from 66.5 %" in worse.sentence


@pytest.mark.parametrize(
    ("name", "figure", "words"),
    [
        ("length_balanced_accuracy", Figure(0.02, 90, -0.05, 0.09), "Length-balanced accuracy, which length alone"),
        ("length_balanced_accuracy", Figure(None, 90), "(not measured)"),
        ("ended", Figure(-0.2, 80, -0.3, -0.1), "Fewer replies end by themselves (−20.0 points"),
        ("repetition", Figure(0.1, 80, 0.05, 0.15), "Replies repeat themselves more (+10.0 points"),
    ],
)
def test_a_gain_with_a_price_is_told_with_its_price(name, figure, words):
    gain = {"pairwise_accuracy": Figure(0.125, 200, 0.061, 0.189)}
    assert verdict(BEFORE, AFTER, gain).cautions == ()
    (caution,) = verdict(BEFORE, AFTER, gain | {name: figure}).cautions
    assert words in caution


def test_points_have_a_true_minus_and_no_signed_zero():
    assert [points(v) for v in (0.1, -0.1, 0.0, -0.0001)] == ["+10.0", "−10.0", "0.0", "0.0"]


def test_a_verdict_on_rewards_says_what_else_changed() -> None:
    before, after = Figure(-1.44, 64, -1.9, -0.95), Figure(-0.01, 64, -0.3, 0.3)
    moved = {"reward": Figure(1.43, 64, 1.0, 1.85), "repetition": Figure(0.21, 64, 0.12, 0.31)}
    said = verdict_on_rewards(before, after, moved)
    assert said.word == "better"
    assert "from −1.440 to −0.010 (+1.430, 95 % interval +1.000 to +1.850)." in said.sentence
    assert any("repeat themselves more" in caution for caution in said.cautions)
    worse = moved | {"pairwise_accuracy": Figure(-0.2, 90, -0.3, -0.1), "reward": Figure(0.1, 64, -0.1, 0.3)}
    said = verdict_on_rewards(before, after, worse)
    assert said.word == "undecided"
    assert "the interval includes zero" in said.sentence
    assert any("prefers chosen answers less often" in caution for caution in said.cautions)
