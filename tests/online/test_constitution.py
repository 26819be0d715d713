"""A constitution is read whole or refused by its place, and its principles are drawn by their weights."""

import hashlib
from collections import Counter
from pathlib import Path

import pytest
from scipy.stats import chisquare

from evenhand.errors import DataError
from evenhand.online.constitution import Principle, drawn, read_constitution

GOOD = """
name: shop
principles:
  - {id: promises, prefer: Prefer the reply that promises nothing., weight: 3}
  - id: steps
    prefer: Prefer the reply that says what to do.
    critique: Name the step that is missing.
    revise: Add the step.
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "constitution.yaml"
    path.write_text(text)
    return path


def test_the_file_is_read_and_known_by_its_hash(tmp_path: Path) -> None:
    found = read_constitution(written(tmp_path, GOOD))
    assert [one.id for one in found.principles] == ["promises", "steps"]
    assert [one.id for one in found.revising] == ["steps"]
    assert found.sha256 == hashlib.sha256(GOOD.encode()).hexdigest()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: [", "cannot be read"),
        ("- one", "the file"),
        ("name: shop\nprinciples: []", "principles"),
        ("name: shop\nprinciples: [{id: a}]", r"principles.0.prefer"),
        ("name: shop\nprinciples: [{id: a, prefer: x, prefr: y}]", r"principles.0.prefr"),
        ("name: shop\nprinciples: [{id: a, prefer: x, weight: 0}]", r"principles.0.weight"),
        ("name: shop\nprinciples: [{id: a, prefer: x, weight: .nan}]", r"principles.0.weight"),
        ("name: shop\nprinciples: [{id: a, prefer: x}, {id: a, prefer: y}]", "`a` stands twice"),
        ("name: shop\nprinciples: [{id: a, prefer: x, critique: y}]", "`a` has one of `critique` and `revise`"),
    ],
)
def test_another_file_is_refused_by_its_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_constitution(written(tmp_path, text))


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.yaml: the constitution cannot be read"):
        read_constitution(tmp_path / "none.yaml")


def test_principles_are_drawn_by_weight_and_the_same_for_one_name() -> None:
    principles = tuple(Principle(id=f"p{i}", prefer="x", weight=weight) for i, weight in enumerate((1.0, 2.0, 5.0)))
    found = Counter(drawn(principles, f"question {i}").id for i in range(4000))
    assert chisquare([found[f"p{i}"] for i in range(3)], [500, 1000, 2500]).pvalue > 0.001
    assert drawn(principles, "question 1") == drawn(principles, "question 1")
