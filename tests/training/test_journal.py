"""The journal keeps whole lines only, and a torn last line is left out."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenhand.training.journal import append_record, journal_text, read_journal

RECORDS = [{"step": 1, "loss": 0.1 + 0.2}, {"step": 2, "loss": 1e-300, "validation": {"loss": None}}]


def test_lines_are_appended_and_come_back_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    assert read_journal(path) == []
    for record in RECORDS:
        append_record(path, record)
    assert read_journal(path) == RECORDS
    assert path.read_text() == journal_text(RECORDS)
    assert [json.loads(line) for line in path.read_text().splitlines()] == RECORDS


def test_a_line_torn_anywhere_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    whole = journal_text(RECORDS)
    first = len(journal_text(RECORDS[:1]))
    for end in range(first, len(whole)):
        path.write_text(whole[:end])
        assert read_journal(path) == RECORDS[:1], end


def test_a_number_that_is_not_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        append_record(tmp_path / "journal.jsonl", {"loss": float("nan")})
    assert (tmp_path / "journal.jsonl").read_text() == ""


@given(st.lists(st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False), max_size=3)))
def test_any_records_survive(tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, float]]) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    path.write_text(journal_text(records))
    assert read_journal(path) == records
