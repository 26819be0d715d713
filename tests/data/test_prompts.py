"""Rows with nothing but a prompt: recognised only where nothing else is there, and read as pairs that lack both answers."""

import json
from pathlib import Path

import pytest

from evenhand.data.prompts import prompt_kind
from evenhand.data.schema import Message
from evenhand.data.votes import answer_kind, describe_answers, read_answers
from evenhand.errors import DataError
from evenhand.training.material import read_texts
from evenhand.training.sections import DataSection


def written(folder: Path, rows: list[dict]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"prompt": "Where?", "answer_key": "7"}, "prompt"),
        ({"prompt": [{"role": "user", "content": "Where?"}]}, "prompt"),
        ({"question": "Where?"}, "question"),
        ({"instruction": "Where?", "input": ""}, "instruction"),
    ],
)
def test_prompts_are_read_without_answers(tmp_path: Path, row: dict, kind: str) -> None:
    path = written(tmp_path, [row, row | {"prompt": ""} if kind == "prompt" else row])
    found = prompt_kind(path)
    assert found is not None
    assert found.name == kind
    assert answer_kind(path) is None
    reading, pairs = read_answers(path, found)
    assert pairs[0].prompt == (Message("user", "Where?"),)
    assert (pairs[0].chosen, pairs[0].rejected, pairs[0].lacks) == ("", "", "rejected")
    assert reading.rows_in == len(pairs) + len(reading.refusals) == 2
    assert "as prompts" in describe_answers(reading, found)


def test_rows_with_answers_are_what_they_are(tmp_path: Path) -> None:
    assert prompt_kind(written(tmp_path, [{"prompt": "Hi", "chosen": "a", "rejected": "b"}])) is None
    both = written(tmp_path, [{"prompt": "Hi", "response": "a"}])
    assert read_texts(DataSection(source=str(both)), "prompts").train[0].chosen == "a"


def test_only_methods_that_draw_answers_take_them(tmp_path: Path) -> None:
    path = written(tmp_path, [{"prompt": "Hi"}])
    assert len(read_texts(DataSection(source=str(path)), "prompts").train) == 1
    for examples in ("pairs", "answers", "votes"):
        with pytest.raises(DataError, match="no kind of preference row"):
            read_texts(DataSection(source=str(path)), examples)
