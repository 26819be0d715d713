"""What a team has logged before: JSONL of its own naming, into the store; a line's content is its name, so twice is once."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evenhand.data.lines import jsonl_rows
from evenhand.errors import DataError, UserError
from evenhand.files import canonical_json, sha256
from evenhand.service.event import KINDS, Event, EventForm, Unfit, read_event
from evenhand.service.store import Store

_BATCH_EVENTS = 500
_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Mapping:
    """How a log's lines become events: our field's name to theirs (dots lead inwards), fixed values, their kinds to ours."""

    fields: dict[str, str]
    constants: dict[str, str]
    kinds: dict[str, str]

    @classmethod
    def read(cls, fields: Sequence[str], constants: Sequence[str], kinds: Sequence[str]) -> "Mapping":
        """From the command line's OURS=THEIRS; raises UserError for a name that is none of ours."""
        named = set(EventForm.model_fields)
        return cls(
            _pairs("--field", fields, named),
            _pairs("--set", constants, named),
            {theirs: ours for ours, theirs in _pairs("--value", kinds, set(KINDS)).items()},
        )

    def form(self, line: dict[str, Any]) -> dict[str, Any]:
        """The event that a line states; what the mapping does not name keeps its own name."""
        renamed = {theirs.partition(".")[0] for theirs in self.fields.values()}
        found = {name: value for name, value in line.items() if name in EventForm.model_fields and name not in renamed}
        for ours, theirs in self.fields.items():
            if (value := _inward(line, theirs)) is not None:
                found[ours] = value
        found |= self.constants
        kind = found.get("kind")
        if isinstance(kind, str):
            found["kind"] = self.kinds.get(kind, kind)
        for name in ("id", "conversation", "draft", "model", "category", "actor"):
            if isinstance(found.get(name), int) and not isinstance(found[name], bool):
                found[name] = str(found[name])
        found.setdefault("id", f"line-{sha256(canonical_json(line))[:32]}")
        if found.get("kind") == "draft":
            found.setdefault("draft", found["id"])
        return found


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did: lines in = stored + replayed + refused, with the first refusals in words."""

    lines: int
    stored: int
    replayed: int
    refused: dict[str, int]
    examples: tuple[str, ...]

    def json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "lines": self.lines,
            "stored": self.stored,
            "replayed": self.replayed,
            "refused": self.refused,
            "examples": list(self.examples),
        }

    def words(self) -> str:
        """For a person."""
        refused = ", ".join(f"{count} {reason}" for reason, count in sorted(self.refused.items())) or "none"
        head = f"{self.lines} lines: {self.stored} stored, {self.replayed} known already, refused: {refused}"
        return "\n".join([head, *self.examples])


def import_file(
    store: Store, tenant: str, file: Path, mapping: Mapping, now_ms: int, narrate: Callable[[str, int, int], None]
) -> Imported:
    """Add a JSONL file's events, in groups that are each durable; raises UserError where the file cannot be read."""
    if not file.is_file():
        raise UserError(f"{file} is not a file; give a JSONL file with one event a line.")
    total = file.stat().st_size
    done = lines = 0
    outcomes: Counter[str] = Counter()
    examples: list[str] = []
    group: list[Event] = []

    def refuse(where: str, reason: str, detail: str) -> None:
        outcomes[reason] += 1
        if len(examples) < _EXAMPLES:
            examples.append(f"{where}: {detail}")

    def write() -> None:
        for event, outcome in zip(group, store.append(group, now_ms).outcomes, strict=True):
            if outcome == "conflict":
                refuse(f"event {event.id}", outcome, "the id is stored with other content")
            else:
                outcomes[outcome] += 1
        group.clear()

    for where, size, found in _events(file, tenant, mapping, now_ms):
        lines += 1
        done += size
        if isinstance(found, Event):
            group.append(found)
        else:
            refuse(where, found.reason, found.message)
        if len(group) >= _BATCH_EVENTS:
            write()
            narrate("import, bytes", min(done, total), total)
    write()
    narrate("import, bytes", total, total)
    stored, replayed = outcomes.pop("stored", 0), outcomes.pop("replayed", 0)
    return Imported(lines, stored, replayed, dict(outcomes), tuple(examples))


def _events(file: Path, tenant: str, mapping: Mapping, now_ms: int) -> Iterator[tuple[str, int, Event | Unfit]]:
    """Each line's place, size and event, or why it is none."""
    for row in jsonl_rows(file, file.name, Counter()):
        where = f"{file.name}:{row.line}"
        if row.fields is None:
            yield (
                where,
                len(row.raw),
                Unfit("malformed", row.problem.detail if row.problem else "the line holds no object"),
            )
            continue
        body = json.dumps(mapping.form(dict(row.fields)), ensure_ascii=False)
        try:
            event = read_event(tenant, body)
        except DataError as error:
            yield where, len(body), Unfit("invalid", str(error))
            continue
        late = event.at_ms > now_ms + 300_000
        yield where, len(body), Unfit("future", "`at` is ahead of this machine's clock") if late else event


def _pairs(option: str, given: Sequence[str], ours: set[str]) -> dict[str, str]:
    found = {}
    for pair in given:
        name, equals, other = pair.partition("=")
        if name not in ours or not equals or not other:
            raise UserError(f"{option} {pair}: write OURS=THEIRS, where OURS is one of {', '.join(sorted(ours))}.")
        found[name] = other
    return found


def _inward(line: dict[str, Any], path: str) -> Any:
    value: Any = line
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value
