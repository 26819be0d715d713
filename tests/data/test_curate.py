"""Curation by named rules: each drops what it says, every judgment is accounted for, row order does not matter."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenhand.data.bench import CurationRules
from evenhand.data.bias import BiasRule
from evenhand.data.category import category_of
from evenhand.data.curate import curate, families
from evenhand.data.rules import RULE_NAMES
from evenhand.data.schema import Judgment, Message, Reading
from evenhand.files import content_root

RULES = CurationRules()
PLAIN = CurationRules(near_duplicates=False, annotators_at_odds=None)


def judged(row, prompt, a, b, verdict, annotator=None, **more):
    return Judgment(f"j{row:03d}", row, f"{row}", (Message("user", prompt),), a, b, verdict, annotator, **more)


def reading(*judgments):
    return Reading("memory", "judgments", len({own.row for own in judgments}), tuple(judgments), ())


def fates(curation):
    return [row.rule for row in sorted(curation.ledger, key=lambda row: row.row)]


def contents(curation):
    return [(pair.prompt[0].content, pair.chosen, pair.rejected) for pair in curation.pairs]


def test_a_clean_pair_is_kept_with_category_and_family():
    found = curate(reading(judged(0, "Where is my parcel?", "On its way.", "No idea.", "b")), RULES)
    assert contents(found) == [("Where is my parcel?", "No idea.", "On its way.")]
    assert found.pairs[0].category == "shipping"
    assert found.pairs[0].family is not None
    assert found.categories_given == 0
    assert found.ledger[0].pair == found.pairs[0].id == "j000"


def test_ties_and_exact_duplicates():
    found = curate(
        reading(
            judged(0, "p", "good", "bad", "tie", "ann"),
            judged(1, "q", "good", "bad", "a", "ann"),
            judged(2, "q", "bad", "good", "b", "ann"),
            judged(3, "q", "good", "bad", "a", "bob"),
        ),
        PLAIN,
    )
    assert fates(found) == ["tie", None, "exact_duplicate", None]
    assert contents(found) == [("q", "good", "bad")]
    assert found.counts == {"judgments": 4, "kept": 2, "pairs": 1, "dropped": {"tie": 1, "exact_duplicate": 1}}


def test_exact_duplicates_can_stay():
    rows = [judged(row, "q", "good", "bad", "a") for row in range(3)]
    found = curate(reading(*rows), CurationRules(exact_duplicates=False, near_duplicates=False))
    assert fates(found) == [None, None, None]
    assert len(found.pairs) == 1


LONG = "My order {} of a blue kettle has not arrived yet and the tracking page has shown the same place for days"
GOOD = "It was held at the depot; I have sent it on today and it will reach you on Friday before noon. Order {}."
BAD = "Please be patient, parcels sometimes take a while and we cannot say more than the tracking page, order {}."


def test_near_duplicates_ignore_case_signs_greetings_and_typos_but_not_numbers():
    told = LONG.format(481), GOOD.format(481), BAD.format(481)
    found = curate(
        reading(
            judged(0, *told, "a"),
            judged(1, f"Hello there, {told[0].upper()}", told[1], f"  {told[2]}!", "a"),
            judged(2, told[0].replace("tracking", "trakcing") + " Thanks!", told[1], told[2], "a"),
            judged(3, LONG.format(7), GOOD.format(7), BAD.format(7), "a"),
            judged(4, told[0], "A different answer altogether, which nobody gave before.", told[2], "a"),
            judged(5, told[0].replace("has not", "has"), told[1], told[2], "a"),
        ),
        RULES,
    )
    assert fates(found) == [None, "near_duplicate", "near_duplicate", None, None, None]
    assert {pair.family for pair in found.pairs} == {found.pairs[0].family}


def test_near_duplicate_item_with_more_judgments_is_kept():
    found = curate(
        reading(
            judged(0, LONG, GOOD, BAD, "a", "ann"),
            judged(1, f"Hi, {LONG}", GOOD, BAD, "a", "ann"),
            judged(2, f"Hi, {LONG}", GOOD, BAD, "a", "bob"),
            judged(3, f"Hi, {LONG}", GOOD, BAD, "b", "cat"),
        ),
        RULES,
    )
    assert fates(found) == ["near_duplicate", None, None, "majority"]


def test_a_corrected_answer_is_nobodys_twin():
    wrong = GOOD.replace("depot", "deopt")
    found = curate(reading(judged(0, LONG, GOOD, wrong, "a"), judged(1, f"Hi, {LONG}", GOOD, wrong, "b")), RULES)
    assert fates(found) == [None, None]


def test_without_majority_all_that_differ_are_contradictions():
    rows = [judged(at, "p", "x", "y", verdict, f"ann-{at}") for at, verdict in enumerate("aab")]
    found = curate(reading(*rows), CurationRules(majority=False))
    assert fates(found) == ["contradiction"] * 3


def test_an_edited_answer_is_not_a_duplicate_of_its_own_pair():
    """Chosen and rejected differ by one word: the pair and its reverse must not be merged."""
    edited = GOOD.replace("Friday", "Monday")
    found = curate(reading(judged(0, LONG, GOOD, edited, "a"), judged(1, LONG + " now", GOOD, edited, "b")), RULES)
    assert fates(found) == [None, None]


def test_majority_and_tied_majority():
    found = curate(
        reading(
            judged(0, "p", "x", "y", "a", "ann"),
            judged(1, "p", "y", "x", "b", "bob"),
            judged(2, "p", "x", "y", "b", "cat"),
            judged(3, "q", "x", "y", "a", "ann"),
            judged(4, "q", "x", "y", "b", "bob"),
        ),
        PLAIN,
    )
    assert fates(found) == [None, None, "majority", "contradiction", "contradiction"]
    assert contents(found) == [("p", "x", "y")]


def test_more_ties_than_votes_for_the_winner():
    rows = [
        judged(0, "p", "x", "y", "a", "ann"),
        judged(1, "p", "x", "y", "tie", "bob"),
        judged(2, "p", "x", "y", "tie", "cat"),
    ]
    assert fates(curate(reading(*rows), PLAIN)) == ["majority", "tie", "tie"]
    assert fates(curate(reading(*rows[:2]), PLAIN)) == [None, "tie"]
    lenient = CurationRules(near_duplicates=False, ties_outvote=False)
    assert fates(curate(reading(*rows), lenient)) == [None, "tie", "tie"]


@pytest.mark.parametrize("verdict", ["tie", "b"])
@pytest.mark.parametrize("dawid_skene", [False, True])
def test_a_dropped_annotators_votes_decide_nothing(dawid_skene, verdict):
    """Four who always take the answer shown first outnumber three who agree."""
    rows = []

    def judge(item, said, who, shown_first=None):
        rows.append(judged(len(rows), f"p{item}", f"x{item}", f"y{item}", said, who, shown_first=shown_first))

    for item in range(60):
        for who in ("ann", "bob", "cat"):
            judge(item, "a", who, "ab"[item % 2])
        for who in ("odd1", "odd2", "odd3", "odd4"):
            judge(item, "ab"[item % 2], who, "ab"[item % 2])
    for who in ("ann", "bob", "cat"):
        judge("contested", "a", who, "a")
    for who in ("odd1", "odd2", "odd3", "odd4"):
        judge("contested", verdict, who, "b")
    found = curate(reading(*rows), CurationRules(near_duplicates=False, dawid_skene=dawid_skene))
    assert {naming.annotator for naming in found.named} == {"odd1", "odd2", "odd3", "odd4"}
    assert "majority" not in fates(found)
    assert len(found.pairs) == 61


def test_a_tie_that_was_uploaded_twice_is_one_vote():
    rows = [judged(0, "p", "x", "y", "a", "ann"), *(judged(at, "p", "x", "y", "tie", "bob") for at in (1, 2))]
    assert fates(curate(reading(*rows), PLAIN)) == [None, "tie", "tie"]


def test_circles_are_dropped_and_chains_are_kept():
    circle = [judged(0, "p", "x", "y", "a"), judged(1, "p", "y", "z", "a"), judged(2, "p", "z", "x", "a")]
    chain = [judged(3, "p", "z", "w", "a"), judged(4, "q", "x", "y", "a"), judged(5, "q", "y", "z", "a")]
    found = curate(reading(*circle, *chain), PLAIN)
    assert fates(found) == ["contradiction"] * 3 + [None] * 3
    kept = curate(reading(*circle, *chain), CurationRules(near_duplicates=False, contradictions=False))
    assert fates(kept) == [None] * 6


def test_length_limits():
    rows = [
        judged(0, "p" * 11, "x", "y", "a"),
        judged(1, "p", "x" * 21, "y", "a"),
        judged(2, "p" * 10, "x" * 20, "", "a"),
    ]
    limits = CurationRules(near_duplicates=False, max_prompt_characters=10, max_answer_characters=20)
    assert fates(curate(reading(*rows), limits)) == ["too_long", "too_long", None]
    assert fates(curate(reading(*rows), PLAIN)) == [None, None, None]


def crowd():
    random_ = random.Random(0)
    for row in range(600):
        long_is_a, annotator = random_.random() < 0.5, row % 6
        longer = annotator == 4 or random_.random() < 0.4
        texts = (f"{row} " + "l" * 200, f"{row} " + "s" * 90)
        a, b = texts if long_is_a else texts[::-1]
        yield judged(row, f"question {row}", a, b, "a" if longer == long_is_a else "b", f"ann-{annotator}")


def test_biased_annotators_are_dropped_unless_switched_off():
    rows = list(crowd())
    found = curate(reading(*rows), CurationRules(near_duplicates=False))
    assert [naming.annotator for naming in found.named] == ["ann-4"]
    assert found.counts["dropped"] == {"annotator_at_odds": 100}
    assert {row.annotator for row in found.ledger if row.rule == "annotator_at_odds"} == {"ann-4"}
    assert curate(reading(*rows), PLAIN).counts["dropped"] == {}
    strict = CurationRules(near_duplicates=False, annotators_at_odds=BiasRule(trials=1000))
    assert curate(reading(*rows), strict).named == ()


judgments = st.lists(
    st.tuples(
        st.sampled_from(["p", "q", "question one", "question two"]),
        st.sampled_from(["x", "y", "z"]),
        st.sampled_from(["x", "y", "w"]),
        st.sampled_from(["a", "b", "tie"]),
        st.sampled_from([None, "ann", "bob", "cat"]),
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=60)
@given(judgments, st.randoms())
def test_every_judgment_is_accounted_for_in_any_order(rows, random_):
    made = [judged(row, *parts) for row, parts in enumerate(rows)]
    found = curate(reading(*made), RULES)
    assert sorted(row.id for row in found.ledger) == sorted(own.id for own in made)
    assert {row.rule for row in found.ledger} <= {None, *RULE_NAMES}
    counts = found.counts
    assert counts["judgments"] == len(made) == counts["kept"] + sum(counts["dropped"].values())
    ids = {pair.id for pair in found.pairs}
    assert {row.pair for row in found.ledger} - {None} == ids
    assert all((row.pair is None) == (row.outcome == "dropped") for row in found.ledger)
    # No pair comes twice, and no two pairs contradict each other.
    decided = [(pair.prompt, frozenset((pair.chosen, pair.rejected))) for pair in found.pairs]
    assert len(set(decided)) == len(decided)
    random_.shuffle(made)
    again = curate(reading(*made), RULES)
    assert again.pairs == found.pairs
    assert content_root(pair.json() for pair in again.pairs) == content_root(pair.json() for pair in found.pairs)


def test_given_families_and_near_prompts_are_joined():
    prompts = [LONG.format(1), LONG.format(2), "Something else entirely, please", "Nothing at all in common here"]
    found = families(prompts, [None, "kettles", "kettles", None], 0.6)
    assert found[0] == found[1] == found[2] == "kettles"
    assert found[3] not in found[:3]


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("Summarise the article", "summary"),
        ("What is 3 + 4?", "mathematics"),
        ("Fix this Python function", "code"),
        ("My refund is missing", "billing"),
        ("Hm.", "other"),
    ],
)
def test_default_category(prompt, name):
    assert category_of((Message("user", prompt),)) == name


def test_given_category_is_kept():
    row = judged(0, "Summarise the article", "x", "y", "a", category="news")
    found = curate(reading(row), RULES)
    assert found.pairs[0].category == "news"
    assert found.categories_given == 1
