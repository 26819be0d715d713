"""Every figure and count of docs/data-findings.md is computed again."""

import re
from functools import cache
from pathlib import Path

import pytest

from evenhand.data.appraise import Asked, appraise

PAGE = Path(__file__).parents[2] / "docs" / "data-findings.md"
LINES = re.findall(r"^\| `([\w.]+)` \| (\w+) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)


@cache
def audited(path):
    return appraise(Asked(str(path)), lambda _: None).audit


@pytest.mark.parametrize("name", sorted({name for name, _, _ in LINES}))
def test_figures_and_counts(real_data, name):
    found = audited(real_data / name)
    figures = found.figures | {f"has_{name}": figure for name, figure in found.features.items()}
    counts = {finding.id: f"{finding.severity} | {finding.count}" for finding in found.findings}
    told = [(key, value) for own, key, value in LINES if own == name]
    assert len(told) > 3
    for key, value in told:
        assert value == (counts[key] if key in counts else figures[key].words()), key
    assert {key for key, _ in told} >= counts.keys()


def test_there_are_enough():
    assert len(LINES) > 50
