"""Rewards that a program checks: mathematics against sympy's own equality, JSON against schemas, form and length."""

import builtins
import json
import time
from functools import partial

import pytest

from evenhand.errors import UserError
from evenhand.online import verifiers
from evenhand.online.rewards import Answered, Reward, load_function
from evenhand.online.verifiers import exact_answer, form, json_schema, last_number, length

SCHEMA = {
    "type": "object",
    "properties": {"team": {"enum": ["billing", "shipping"]}, "urgent": {"type": "boolean"}},
    "required": ["team"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("reply", "reference", "right"),
    [
        (r"So it is \boxed{\frac{1}{2}}.", "0.5", 1),
        ("the answer is 12.0 apples", "12", 1),
        ("$1,000", "1000", 1),
        (r"$x^2 - 1$", r"$(x-1)(x+1)$", 1),
        ("first 12, then 13", "12", 0),
        ("no number at all", "5", 0),
        ("", "5", 0),
    ],
)
def test_an_answer_is_right_as_mathematics(reply: str, reference: str, right: int) -> None:
    pytest.importorskip("math_verify")
    assert exact_answer([reply], [reference]) == [right]


def test_only_what_stands_after_the_mark_counts() -> None:
    pytest.importorskip("math_verify")
    replies, reference = ["12 or so #### 13", "13", "#### 12 #### 13"], ["a 12 #### 13"] * 3
    assert exact_answer(replies, reference, after="####") == [1.0, 0.0, 1.0]
    assert exact_answer(["1"], [None]) == [None]


def test_a_reply_that_would_compute_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("math_verify")
    monkeypatch.setattr(verifiers, "_SECONDS", 1)
    began = time.monotonic()
    assert exact_answer([r"\boxed{9^{9^{9^{9^{9}}}}}"], ["4"]) == [0.0]
    assert time.monotonic() - began < 10


def test_gsm8ks_own_solutions_are_right_and_each_others_are_not(real_data) -> None:
    pytest.importorskip("math_verify")
    lines = (real_data / "gsm8k_test.jsonl").read_text().splitlines()[:40]
    answers = [json.loads(line)["answer"] for line in lines]
    for reward in (last_number, lambda replies, wanted: exact_answer(replies, wanted, after="####")):
        assert reward(answers, answers) == [1.0] * 40
        others = [*answers[1:], answers[0]]
        finals = [answer.rpartition("####")[2].strip() for answer in answers]
        same = [float(a == b) for a, b in zip(finals, [*finals[1:], finals[0]])]
        assert reward(others, answers) == same


@pytest.mark.parametrize(
    ("reply", "reference", "right"),
    [
        ("3/4", "0.75", 1), ("-2", "#### -2", 1), ("12 or 13", "12", 0), ("", "1", 0), ("5/0", "5", 1), ("1,234.50", "1234.5", 1)
    ],
)  # fmt: skip
def test_the_last_number(reply: str, reference: str, right: int) -> None:
    assert last_number([reply], [reference]) == [right]


def test_json_by_a_schema() -> None:
    pytest.importorskip("jsonschema")
    replies = {
        '{"team": "billing"}': 1,
        '```json\n{"team": "shipping", "urgent": true}\n```': 1,
        '{"team": "sales"}': 0,
        '{"team": "billing", "more": 1}': 0,
        '{"team": "billing"} and more': 0,
        '{"team": NaN}': 0,
        "": 0,
        "[" * 100_000: 0,
    }
    assert json_schema(list(replies), SCHEMA) == list(replies.values())
    with pytest.raises(UserError, match="is no JSON Schema"):
        json_schema(["{}"], {"type": "objekt"})


def test_form_and_length() -> None:
    assert form(["<a>\n4\n</a>", "x <a>4</a>"], r"<a>.*</a>") == [1.0, 0.0]
    assert length(["a b c d e f g h i", ""], most=4) == [-1.0, 0.0]
    with pytest.raises(UserError, match="they are 5 and 4"):
        length(["a"], most=4, least=5)


def test_they_are_rewards_that_a_recipe_names() -> None:
    source = "evenhand.online.verifiers:last_number"
    reward = Reward(source, load_function(source))
    answered = Answered([(), ()], ["so 4", "so 5"], {"reference": ["#### 4", None], "other": [1, 2]})
    assert reward.values(answered) == [1.0, None]


@pytest.mark.parametrize(
    ("name", "arguments", "package"),
    [("exact_answer", {"reference": ["1"]}, "math_verify"), ("json_schema", {"schema": SCHEMA}, "jsonschema")],
)
def test_what_is_not_installed_is_said_with_its_command_and_stops_at_once(
    monkeypatch, name, arguments, package
) -> None:
    own = builtins.__import__

    def without(wanted, *more, **named):
        if wanted.partition(".")[0] == package:
            raise ImportError(f"No module named {wanted!r}")
        return own(wanted, *more, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    reward = Reward(name, partial(load_function(f"evenhand.online.verifiers:{name}"), **arguments))
    with pytest.raises(UserError, match=r"pip install 'evenhand\[rl\]'"):
        reward.values(Answered([()], ["1"]))
