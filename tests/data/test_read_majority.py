"""Several verdicts on one contest: most of them decide."""

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from evenhand.data.majority import majority_pairs
from evenhand.data.schema import Judgment, Message, Verdict

BASE = Judgment("j", 0, "0", (Message("user", "p"),), "x", "y", "a")


def judged(verdicts: list[Verdict]) -> list[Judgment]:
    return [replace(BASE, id=f"j{i}", verdict=v, annotator=f"ann{i}", row=i) for i, v in enumerate(verdicts)]


@given(st.lists(st.sampled_from(["a", "b", "tie"]), min_size=1, max_size=7))
def test_most_verdicts_decide_and_a_tied_majority_gives_nothing(verdicts: list[Verdict]) -> None:
    votes = Counter(verdicts)
    top = [verdict for verdict in ("a", "b", "tie") if votes[verdict] == max(votes.values())]
    pairs = majority_pairs(judged(verdicts))
    if top == ["a"]:
        assert [(p.chosen, p.rejected, p.id) for p in pairs] == [("x", "y", f"j{verdicts.index('a')}")]
    elif top == ["b"]:
        assert [(p.chosen, p.rejected, p.id) for p in pairs] == [("y", "x", f"j{verdicts.index('b')}")]
    else:
        assert pairs == ()


def test_sides_may_be_swapped_between_annotators() -> None:
    first, second, third = judged(["a", "b", "b"])
    swapped = replace(second, answer_a="y", answer_b="x")
    assert [p.chosen for p in majority_pairs([first, swapped, third])] == ["x"]


def test_rows_decided_before_each_keep_their_pair() -> None:
    again = replace(BASE, id="k", row=1)
    against = replace(BASE, id="l", row=2, verdict="b")
    pairs = majority_pairs([BASE, again, against])
    assert [(p.id, p.row, p.chosen) for p in pairs] == [("j", 0, "x"), ("k", 1, "x"), ("l", 2, "y")]


def test_another_prompt_is_another_contest() -> None:
    first, second = judged(["a", "b"])
    pairs = majority_pairs([first, replace(second, prompt=(Message("user", "q"),))])
    assert [p.chosen for p in pairs] == ["x", "y"]
