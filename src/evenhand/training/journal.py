"""The run's journal: one JSON object a line, in step order, cut back to the checkpoint on resume."""

import json
import os
from pathlib import Path
from typing import Any


def journal_of(folder: Path) -> Path:
    """Where a run folder keeps its journal."""
    return folder / "journal.jsonl"


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Add one line and make it durable."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_journal(path: Path) -> list[dict[str, Any]]:
    """All whole lines; a line torn by a kill is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def journal_text(records: list[dict[str, Any]]) -> str:
    """The records as the text of a journal."""
    return "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)
