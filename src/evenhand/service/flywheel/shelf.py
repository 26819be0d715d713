"""Where a collection lies: its files, and what lay there before."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evenhand.errors import UserError

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Shelf:
    """The files of one collection: judgments, unpaired thumbs, rows that are held back, and the record."""

    judgments: Path
    thumbs: Path
    held: Path
    record: Path

    @classmethod
    def at(cls, out: Path) -> "Shelf":
        """In a folder, of which `evenhand audit` and `curate` read the judgments alone; or around a .jsonl file."""
        if out.suffix == ".jsonl":
            if out.is_dir():
                raise UserError(f"{out} is a folder; give it another name, or name a file.")
            beside = {name: out.with_name(f"{out.stem}.{name}.jsonl") for name in ("thumbs", "held")}
            return cls(out, beside["thumbs"], beside["held"], out.with_name(f"{out.stem}.collection.json"))
        if out.is_file():
            raise UserError(f"{out} is a file that does not end in .jsonl; give a folder, or a name that does.")
        return cls(
            out / "judgments.jsonl",
            out / "thumbs" / "thumbs.jsonl",
            out / "held" / "held.jsonl",
            out / "collection.json",
        )

    def read(self) -> tuple[dict[str, Any], list[Row]] | None:
        """The record and all rows that lie there, None where there is no record; raises UserError for a damaged one."""
        if not self.record.exists():
            if any(path.exists() for path in (self.judgments, self.thumbs, self.held)):
                raise UserError(f"{self.judgments} was not written by a collection; choose another --out.")
            return None
        try:
            record = json.loads(self.record.read_bytes())
            rows = [row for path in (self.judgments, self.thumbs, self.held) for row in read_rows(path)]
            _ = [(row["id"], row["events"]) for row in rows]
            _ = record["hash"], record["erased"], record["previous"], record["added"], record["removed"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.record}: the collection that lies there cannot be read ({error!r}); remove it."
            ) from error
        return record, rows


def json_lines(rows: Iterable[Row]) -> str:
    """One object a line."""
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def read_rows(path: Path) -> list[Row]:
    """The objects of a file that `json_lines` wrote."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
