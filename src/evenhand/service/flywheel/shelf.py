"""Where a collection lies: its files, and what lay there before."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evenhand.errors import UserError
from evenhand.files import canonical_json, held, remove_staging, sha256_file, write_whole

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Before:
    """What a new collection replaces: its record, and the events of each of its rows by the row's id."""

    record: Mapping[str, Any]
    events: Mapping[str, Sequence[str]]


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
            if any(path.exists() for path in (self.judgments, self.thumbs, self.held)) and not self._begun.exists():
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

    def before(self) -> Before | None:
        """What the record that lies there is of, also where a run has replaced some of its files and was cut short."""
        if (found := self.read()) is None:
            return None
        record, rows = found
        if self._begun.exists():
            begun = json.loads(self._begun.read_bytes())
            if begun["record"] == sha256_file(self.record):
                return Before(record, begun["events"])
        return Before(record, {row["id"]: row["events"] for row in rows})

    @contextmanager
    def replacing(self, before: Before | None) -> Iterator[None]:
        """While the rows are written and then the record: a run that ends in between leaves `before` for the next.

        What a killed run had half written goes first: it may hold what has been erased since.
        """
        kept = {"record": sha256_file(self.record), "events": before.events} if before else {"record": None}
        for path in (self.judgments, self.thumbs, self.held, self.record, self._begun):
            remove_staging(path)
        write_whole(self._begun, canonical_json(kept))
        yield
        self._begun.unlink()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other collections out until the end, or one that began earlier would bring back what was erased since.

        Raises UserError while another one is at work here.
        """
        folder = self.record.parent
        folder.mkdir(parents=True, exist_ok=True)
        lock = folder
        if self.held.parent == folder:  # around a file, where several collections may stand in one folder
            lock = self.record.with_name(f".{self.record.name}.lock")
            lock.touch()
        with held(lock):
            yield

    @property
    def _begun(self) -> Path:
        """The events of the rows that the record is of, kept while their files are replaced, with that record's hash."""
        return self.record.with_name(f".{self.record.name}.begun")


def json_lines(rows: Iterable[Row]) -> str:
    """One object a line."""
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def read_rows(path: Path) -> list[Row]:
    """The objects of a file that `json_lines` wrote."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
