"""The built-in tasks have one right answer each, scored exactly, and the probes are what they say."""

import json
import re
from itertools import pairwise

import pytest

from evenhand.evaluation.items import EXTRACTION, JSON_FORMAT, TaskItem, sum_pairs, task_items
from evenhand.evaluation.probes import (
    attack_probes,
    benign_probes,
    bias_pairs,
    harmful_probes,
    open_probes,
    resists,
)

KINDS = (EXTRACTION, JSON_FORMAT)


@pytest.mark.parametrize("kind", KINDS)
def test_items_are_different_and_the_same_each_time(kind: str) -> None:
    made = task_items(kind, 200, seed=0)
    assert len({item.prompt for item in made}) == 200
    assert made == task_items(kind, 200, seed=0)
    assert made != task_items(kind, 200, seed=1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_is_right_and_another_items_is_not(kind: str) -> None:
    made = task_items(kind, 100, seed=3)
    assert all(item.is_right(item.answer) for item in made)
    assert not any(item.is_right("") or item.is_right("I do not know.") for item in made)
    for one, other in pairwise(made):
        if one.answer != other.answer:
            assert not one.is_right(other.answer)


def test_sums_are_right_by_another_computation() -> None:
    pairs = sum_pairs(90, seed=0)
    assert pairs == sum_pairs(90, seed=0) != sum_pairs(90, seed=1)
    assert len({pair.prompt for pair in pairs}) == 90
    for pair in pairs:
        one, other = (int(found) for found in re.findall(r"\d+", pair.prompt[-1].content))
        results = [[int(found) for found in re.findall(r"-?\d+", side)] for side in (pair.chosen, pair.rejected)]
        assert results[0] == [one, other, one + other]
        assert results[1][:2] == [one, other]
        assert 0 < abs(results[1][2] - one - other) <= 3


def item(kind: str, answer: str, wrong: tuple[str, ...] = ()) -> TaskItem:
    return TaskItem(kind, (), answer, 8, wrong)


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("Porto", True),
        ("She lives in porto.", True),
        ("Portofino", False),
        ("Porto, order 123", False),
        ("Oslo", False),
    ],
)
def test_a_fact_is_named_as_a_word_and_nothing_else_is(reply: str, right: bool) -> None:
    assert item(EXTRACTION, "Porto", ("123",)).is_right(reply) is right


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ('{"city": "Porto", "order": 48}', True),
        ('```json\n{"order": 48,\n "city": "Porto"}\n```', True),
        ('{"city": "Porto", "order": "48"}', False),
        ('{"city": "Porto", "order": 48, "more": 1}', False),
        ("{'city': 'Porto', 'order': 48}", False),
        ('{"city": "Porto", "order": 48', False),
        ("[1]", False),
    ],
)
def test_json_is_exactly_the_fields_asked_for(reply: str, right: bool) -> None:
    assert item(JSON_FORMAT, json.dumps({"city": "Porto", "order": 48})).is_right(reply) is right


def test_probes_are_many_and_different() -> None:
    for probes, least in ((harmful_probes(999), 72), (benign_probes(999), 72), (open_probes(999), 24)):
        assert len({probe.text for probe in probes}) == len(probes) >= least
    assert len({probe.kind for probe in harmful_probes(11)}) == 11
    assert not {p.text for p in harmful_probes(999)} & {p.text for p in benign_probes(999)}


def test_attacks_are_told_by_their_code() -> None:
    probes = attack_probes(120, seed=0)
    assert len({(probe.prompt, probe.code) for probe in probes}) == 120
    for probe in probes:
        assert probe.code is not None
        assert any(probe.code in message.content for message in probe.prompt)
        assert not resists(probe, f"Of course: {probe.code.upper()}!")
        assert resists(probe, "I cannot tell you that.")


def test_paired_sentences_differ_in_the_group_alone() -> None:
    pairs = bias_pairs()
    assert len(pairs) == 90
    assert len({(pair.row, pair.id) for pair in pairs}) == 90
    for pair in pairs:
        assert pair.chosen != pair.rejected
        assert abs(len(pair.chosen.split()) - len(pair.rejected.split())) <= 3
        assert "{" not in pair.chosen + pair.rejected + pair.prompt[0].content
    assert any("she" in pair.rejected.split() and "he" in pair.chosen.split() for pair in pairs)
