"""Rules from a file: named, ordered, with limits; each new rule drops what it says and nothing else."""

import random

import pytest
import yaml

from evenhand.data.bench import CurationRules
from evenhand.data.bias import BiasRule
from evenhand.data.curate import curate
from evenhand.data.rulebook import read_rules
from evenhand.data.schema import Judgment, Message, Reading
from evenhand.errors import DataError

PLAIN = CurationRules(near_duplicates=False, annotators_at_odds=None)


def written(tmp_path, told):
    path = tmp_path / "rules.yaml"
    path.write_text(told if isinstance(told, str) else yaml.safe_dump(told))
    return path


def judged(row, a, b, verdict, annotator="ann", category=None, prompt=None):
    asked = (Message("user", prompt or f"question {row} please"),)
    return Judgment(f"j{row:04d}", row, f"{row}", asked, a, b, verdict, annotator, None, None, category)


def curated(rows, rules, encode=None):
    return curate(Reading("memory", "judgments", len(rows), tuple(rows), ()), rules, encode=encode)


def dropped(rows, rules, encode=None):
    found = curated(rows, rules, encode)
    return {row.id: row.rule for row in found.ledger if row.rule is not None}


def test_order_and_limits_come_from_the_file(tmp_path):
    told = """
rules:
  - category: {without: [spam, junk]}
  - tie
  - exact_duplicate
  - annotator_at_odds: {excess: 0.25, trials: 50}
  - annotator_cap: {most: 500}
  - majority: {dawid_skene: true}
  - contradiction: {circles: false}
  - length_ratio: {most: 4}
  - too_long: {answer_characters: 8000, tokens: 2048}
  - length_balance
families: 0.7
"""
    found = read_rules(written(tmp_path, told))
    assert found.order[:3] == ("category", "tie", "exact_duplicate")
    assert "near_duplicate" not in found.order
    assert found == CurationRules(
        annotators_at_odds=BiasRule(excess=0.25, trials=50),
        dawid_skene=True,
        contradictions=False,
        max_answer_characters=8000,
        max_tokens=2048,
        without_categories=("spam", "junk"),
        annotator_cap=500,
        max_length_ratio=4,
        balance_length=True,
        families=0.7,
        order=found.order,
    )


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ("rules: [tie, contradictoin]", "did you mean `contradiction`"),
        ({"rules": ["tie"]}, "`contradiction` is missing"),
        ({"rules": ["contradiction"]}, "`tie` is missing"),
        ({"rules": ["near_duplicate", "tie", "contradiction"]}, "must come after `tie`"),
        ({"rules": ["tie", "tie", "contradiction"]}, "stands twice"),
        ({"rules": ["tie", "annotator_cap", "contradiction"]}, "needs `most`"),
        ({"rules": ["tie", {"annotator_cap": {"mots": 3}}, "contradiction"]}, "did you mean `most`"),
        ({"rules": ["tie", {"annotator_cap": {"most": "many"}}, "contradiction"]}, "not of the type"),
        ({"rules": ["tie", {"annotator_cap": {"most": True}}, "contradiction"]}, "not of the type"),
        ({"rules": ["tie", {"annotator_cap": {"most": 0}}, "contradiction"]}, "above 0"),
        ({"rules": ["tie", {"tie": 1, "x": 2}, "contradiction"]}, "is no rule"),
        ({"rules": ["tie", "contradiction"], "famlies": 1}, "did you mean `families`"),
        ({"rule": []}, "no list `rules`"),
        ("rules: [", "cannot be read"),
        ("", "no list `rules`"),
    ],
)
def test_mistakes_are_named(tmp_path, told, words):
    with pytest.raises(DataError, match=words):
        read_rules(written(tmp_path, told))


def test_category_filters():
    rows = [judged(at, "yes", "no way", "a", category="abc"[at % 3]) for at in range(9)]
    rows.append(judged(9, "yes", "no way", "a", prompt="Summarise this for me"))
    only = CurationRules(only_categories=("a", "summary"), near_duplicates=False)
    assert set(dropped(rows, only)) == {f"j{at:04d}" for at in range(9) if at % 3}
    without = CurationRules(without_categories=("summary",), near_duplicates=False)
    assert dropped(rows, without) == {"j0009": "category"}


def test_annotator_cap_keeps_the_same_ones_in_any_order():
    rows = [judged(at, f"yes {at}", "no", "a", annotator="ann" if at % 4 else "bob") for at in range(40)]
    rules = CurationRules(annotator_cap=12, near_duplicates=False, annotators_at_odds=None)
    found = dropped(rows, rules)
    assert len(found) == 18
    assert set(found.values()) == {"annotator_cap"}
    random.Random(1).shuffle(rows)
    assert dropped(rows, rules) == found


def test_length_ratio_and_tokens():
    rows = [judged(0, "x" * 100, "y" * 26, "a"), judged(1, "x" * 100, "y" * 24, "a"), judged(2, "a b c", "d e", "a")]
    assert dropped(rows, CurationRules(max_length_ratio=4.0, near_duplicates=False)) == {"j0001": "length_ratio"}
    limits = CurationRules(max_tokens=5, near_duplicates=False)
    assert dropped(rows, limits, str.split) == {"j0002": "too_long"}  # "question 2 please" and "a b c"
    with pytest.raises(DataError, match="no tokenizer"):
        curated(rows, limits)


def test_balance_leaves_as_many_longer_as_shorter_winners_in_each_category():
    random_ = random.Random(2)
    rows = []
    for at in range(300):
        longer = random_.random() < (0.8 if at % 2 else 0.3)
        a, b = "long answer " * 5 + str(at), f"short {at}"
        rows.append(judged(at, a, b, "a" if longer else "b", category=f"c{at % 2}"))
    rules = CurationRules(balance_length=True, near_duplicates=False, annotators_at_odds=None)
    found = curated(rows, rules)
    for category in ("c0", "c1"):
        mine = [pair for pair in found.pairs if pair.category == category]
        assert sum(len(pair.chosen) > len(pair.rejected) for pair in mine) * 2 == len(mine) > 50
    random_.shuffle(rows)
    assert curated(rows, rules).pairs == found.pairs


def test_dawid_skene_follows_the_reliable():
    rows = []
    for item in range(60):
        right = "ab"[item % 2]
        wrong = "ba"[item % 2]
        votes = {"good": right, "fine": right, "sly": wrong if item % 3 else right, "dim": wrong if item % 3 else right}
        if item == 0:
            votes = {"good": right, "sly": wrong, "dim": wrong}
        for who, verdict in votes.items():
            rows.append(judged(len(rows), f"first {item}", f"second {item}", verdict, who, prompt=f"item {item} here"))
    found = curated(rows, CurationRules(dawid_skene=True, near_duplicates=False, annotators_at_odds=None))
    assert all(row.rule in {None, "majority"} for row in found.ledger)
    assert len(found.pairs) == 60
