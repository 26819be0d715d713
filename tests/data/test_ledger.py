"""Refused rows on disk, and totals that must add up."""

import json
import subprocess
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


def test_a_refused_line_is_known_by_the_hash_of_its_bytes(tmp_path):
    good = '{"prompt": "p?", "chosen": "yes", "rejected": "no"}'
    huge = '{"prompt": "' + "x" * (5 << 20) + '"}'
    lines = [good, '{"prompt": "p?", "chosen": "", "rejected": "no"}\r', "{", huge, good.replace("p?", "q?")]
    path = tmp_path / "rows.jsonl"
    path.write_bytes("\n".join(lines).encode() + b"\n")
    refused = read_judgments(path).refusals
    assert [own.line for own in refused] == [2, 3, 4]
    for own in refused:
        told = subprocess.run(f"sed -n {own.line}p {path} | sha256sum", shell=True, capture_output=True, check=True)
        assert own.sha256 == told.stdout.split()[0].decode()
    write_refusals(tmp_path / "refused.jsonl", refused)
    assert read_refusals(tmp_path / "refused.jsonl") == refused
