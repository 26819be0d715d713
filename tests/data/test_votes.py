"""Demonstrations and thumbs are read as pairs that lack a side, and nothing else is."""

import json
from pathlib import Path
from typing import Any

import pytest

from evenhand.data.schema import Message
from evenhand.data.votes import answer_kind, describe_answers, read_answers
from evenhand.errors import DataError


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def talk(answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": "Where is my parcel?"}, {"role": "assistant", "content": answer}]


@pytest.mark.parametrize(
    "row",
    [{"messages": talk("On its way.")}, {"prompt": "Where is my parcel?", "completion": "On its way."}],
    ids=["messages", "prompt and completion"],
)
@pytest.mark.parametrize("label", [None, True, False])
def test_a_thumb_is_the_side_it_says(tmp_path: Path, row: dict[str, Any], label: bool | None) -> None:
    source = written(tmp_path / "rows.jsonl", [row if label is None else {**row, "label": label}])
    kind = answer_kind(source)
    assert kind is not None
    reading, (pair,) = read_answers(source, kind)
    assert reading.rows_in == reading.rows_used == 1
    assert pair.prompt == (Message("user", "Where is my parcel?"),)
    if label is False:
        assert (pair.chosen, pair.rejected, pair.lacks) == ("", "On its way.", "chosen")
    else:
        assert (pair.chosen, pair.rejected, pair.lacks) == ("On its way.", "", "rejected")
    assert pair.json()["lacks"] == pair.lacks
    form = "demonstrations" if label is None else "votes"
    assert describe_answers(reading, kind).startswith(f"read 1 rows as {form} ({kind.name})")


def test_a_label_that_is_no_thumb_refuses_its_row(tmp_path: Path) -> None:
    rows = [{"messages": talk(f"Answer {i}."), "label": True} for i in range(3)]
    rows[1]["label"] = "yes"
    source = written(tmp_path / "rows.jsonl", rows)
    kind = answer_kind(source)
    assert kind is not None
    reading, pairs = read_answers(source, kind)
    assert len(pairs) == 2
    assert [(one.row, one.reason) for one in reading.refusals] == [(1, "wrong_type")]
    assert "`label` is text, not true or false" in reading.refusals[0].detail
    assert "2 liked, 0 not; 1 refused (wrong_type 1)" in describe_answers(reading, kind)


def test_pairs_and_unknown_rows_are_no_answers(tmp_path: Path) -> None:
    pairs = written(tmp_path / "pairs.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c", "label": True}])
    assert answer_kind(pairs) is None
    assert answer_kind(written(tmp_path / "other.jsonl", [{"text": "a"}])) is None


def test_real_thumbs(real_data: Path) -> None:
    source = real_data / "thumbs.json"
    kind = answer_kind(source)
    assert kind is not None
    assert kind.form == "votes"
    reading, pairs = read_answers(source, kind)
    labels = [row["label"] for row in json.loads(source.read_text())]
    assert (reading.rows_in, len(labels)) == (300, 300)
    liked = {pair.row: pair.lacks == "rejected" for pair in pairs}
    assert all(liked[row] == labels[row] for row in liked)
    assert len(pairs) + len(reading.refusals) == 300
    assert len(pairs) > 290


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    source = written(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": " ", "label": True}])
    kind = answer_kind(source)
    assert kind is not None
    with pytest.raises(DataError, match="none of 1 rows can be used"):
        read_answers(source, kind)
