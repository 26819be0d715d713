"""Refused rows on disk, and totals that must add up."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenhand.data.ledger import read_refusals, totals, write_refusals
from evenhand.data.read import read_judgments
from evenhand.data.reasons import REASONS
from evenhand.data.schema import Refusal
from evenhand.errors import DataError

refusals = st.builds(
    Refusal,
    file=st.text(max_size=9),
    line=st.none() | st.integers(1, 10**9),
    row=st.integers(0, 10**9),
    reason=st.sampled_from(sorted(REASONS)),
    detail=st.text(max_size=20),
    text=st.text(max_size=40),
)


@given(rows=st.lists(refusals, max_size=5))
def test_ledger_gives_back_what_was_written(tmp_path_factory: pytest.TempPathFactory, rows: list[Refusal]) -> None:
    path = tmp_path_factory.mktemp("ledger") / "refused.jsonl"
    write_refusals(path, rows)
    assert read_refusals(path) == tuple(rows)
    assert path.read_bytes().isascii()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [row.json() for row in rows]


def test_a_file_that_is_no_ledger_is_named(tmp_path: Path) -> None:
    path = tmp_path / "refused.jsonl"
    path.write_text('{"file": "x"}\n')
    with pytest.raises(DataError, match="is no ledger"):
        read_refusals(path)


def test_totals_add_up_and_a_lost_row_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    good = json.dumps({"prompt": "p", "chosen": "x", "rejected": "y"})
    path.write_text(f"{good}\n[]\n{good.replace('x', 'z')}\n")
    reading = read_judgments(path)
    assert totals(reading) == {"rows_in": 3, "rows_used": 2, "refused": {"not_an_object": 1}}
    with pytest.raises(AssertionError, match=r"rows \[1\] of 3 are in two places or in none"):
        totals(replace(reading, refusals=()))
    with pytest.raises(AssertionError, match="two places or in none"):
        totals(replace(reading, refusals=reading.refusals * 2))
