"""Measures equal what the texts say, in any batches and in any process, and `Mark` bits what the patterns say."""

import random
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenhand.data.audit import audit
from evenhand.data.facts import facts_of
from evenhand.data.items import ballot_of, identities
from evenhand.data.marks import Mark, has_list, is_wordless
from evenhand.data.measure import digits_of, measured, plain_of
from evenhand.data.schema import Judgment, Message, Reading
from evenhand.data.wording import digits_of as digits_of_words
from evenhand.data.wording import words_of
from evenhand.data.workers import workers


def judged(row, prompt, a, b, verdict="a"):
    return Judgment(f"j{row}", row, f"{row}", (Message("user", prompt),), a, b, verdict)


def crowd(count, seed=0):
    random_ = random.Random(seed)
    words = [f"{random_.getrandbits(30):x}" for _ in range(500)]
    say = lambda: " ".join(random_.choice(words) for _ in range(random_.randint(3, 40)))  # noqa: E731
    return [judged(row, say(), say(), say(), random_.choice(["a", "b", "tie"])) for row in range(count)]


def alike(one, other):
    arrays = ("plain_NT", "digits_NT", "marks_N", "characters_NT", "signatures_NH")
    return one.keys == other.keys and all(np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays)


@given(st.text(max_size=80))
def test_plain_text_is_the_words_without_their_gaps(text):
    assert plain_of(text) == "".join(words_of(text)).encode("utf-8", "surrogatepass")
    assert digits_of(plain_of(text)).decode() == digits_of_words("".join(words_of(text)))


def test_facts_are_ballots_identities_and_lengths():
    rows = crowd(700)
    facts = facts_of(rows)
    assert facts.same == identities(rows)
    assert facts.ballots == tuple(map(ballot_of, rows))
    want = [[len(own.prompt[0].content), len(own.answer_a), len(own.answer_b)] for own in rows]
    assert facts.measures.characters_NT.tolist() == want


def test_batches_do_not_matter():
    rows = crowd(1300)
    whole = measured(rows)
    parts = [measured(rows[start : start + 100]) for start in range(0, 1300, 100)]
    assert whole.keys == b"".join(part.keys for part in parts)
    assert np.array_equal(whole.signatures_NH, np.concatenate([part.signatures_NH for part in parts]))
    assert np.array_equal(whole.marks_N, np.concatenate([part.marks_N for part in parts]))


def test_processes_give_the_same_measures_and_findings():
    rows = crowd(1500)
    with workers(2) as run:
        beside = facts_of(rows, run)
    assert alike(beside.measures, facts_of(rows).measures)
    reading = Reading("memory", "judgments", len(rows), tuple(rows), ())
    assert audit(reading, facts=beside) == audit(reading)


def test_nothing_is_measured_as_nothing():
    assert len(measured([])) == 0
    assert audit(Reading("memory", "judgments", 0, (), ())).findings == ()


@pytest.mark.parametrize(
    ("answer", "mark"),
    [
        ("", Mark.EMPTY),
        (" \n", Mark.EMPTY),
        ("<|im_start|>user\nHi", Mark.TEMPLATE),
        ("see <|endoftext|> there", Mark.CONTROL),
        ("write to ann@example.org", Mark.EMAIL),
        ("hf_" + "aB3" * 12, Mark.KEY),
        ("glpat-" + "x1y2" * 5, Mark.KEY),
        ("sk-proj-" + "abc123" * 5, Mark.KEY),
        ("AKIAABCDEFGHIJKLMNOP", Mark.KEY),
        ("-----BEGIN PRIVATE KEY-----", Mark.KEY),
        ("4111 1111 1111 1111", Mark.CARD),
        ("DE89 3704 0044 0532 0130 00", Mark.ACCOUNT),
        ("+44 20 7946 0958", Mark.PHONE),
        ("a" * 300, Mark.WORDLESS),
        ("I'm sorry, but I can't help with that.", Mark.A_REFUSES),
        ("We apologise for the wait.", Mark.A_APOLOGY),
        ("Steps:\n1. open\n2. look", Mark.A_LIST),
        ("It is **bold**.", Mark.A_MARKUP),
    ],
)
def test_each_mark_is_set_where_it_belongs_and_nowhere_else(answer, mark):
    others = Mark.A_IS_FIRST | Mark.A_APOLOGY
    plain = int(measured([judged(0, "Where is it?", "It is here.", "No idea at all.")]).marks_N[0])
    found = int(measured([judged(0, "Where is it?", answer, "No idea at all.")]).marks_N[0])
    assert plain & ~Mark.A_IS_FIRST == 0
    assert found & mark
    assert found & ~others == mark & ~others


def test_answers_that_are_nearly_one():
    long = "The order left our house on Monday and will be with you in three days. " * 3
    one_letter = int(measured([judged(0, "p", long, long.replace("three", "threw", 1))]).marks_N[0])
    case_only = int(measured([judged(0, "p", long, long.upper().replace(" ", "  "))]).marks_N[0])
    apart = int(measured([judged(0, "p", long, long.replace("Monday", "Friday"))]).marks_N[0])
    bits = Mark.NEAR_TIE | Mark.IDENTICAL
    assert (one_letter & bits, case_only & bits, apart & bits) == (Mark.NEAR_TIE, Mark.IDENTICAL, 0)


@pytest.mark.parametrize(
    "text",
    [
        "42",
        "An ordinary sentence about an order that is late by a week or so.",
        "注文した荷物がまだ届いていません。" * 20,
        "def f(x):\n    return [x ** 2 for x in range(10)]  # squares of the first numbers\n" * 3,
        "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n and what they mean for the delivery of your parcel",
        "ВНИМАНИЕ: заказ не доставлен, пожалуйста, напишите нам об этом сегодня же.",
    ],
)
def test_language_code_and_other_scripts_are_no_junk(text):
    assert not is_wordless(text)


@pytest.mark.parametrize(
    "text", ["la" * 40, "QUJDREVGR0g9" * 40, "-=" * 60, "%$# @!& *() -=+ ~`| }{][ <>,. ;:/? ^%$ #@! &*("]
)
def test_junk_is_junk(text):
    assert is_wordless(text)


def test_list_items_need_a_line_of_their_own():
    assert has_list("- one\n- two")
    assert not has_list("well - that is it\nand 1.5 is a number")


def test_real_texts_are_language(real_data):
    replies = re.findall(r'"reply": "((?:[^"\\]|\\.)*)"', (real_data / "xstest_replies.jsonl").read_text())
    assert len(replies) == 2250
    assert sum(map(is_wordless, replies)) == 0
