"""A batch of events on its way into the store: which of them are new, what their rows hold, what their sums add."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from evenhand.service.chain import digest_of
from evenhand.service.database import Database, Execute
from evenhand.service.event import Event
from evenhand.service.schema import EVENT_COLUMNS
from evenhand.service.sums import BIN_KEYS, ROLLUP_KEYS, ROLLUP_SUMS, Sums

Outcome = Literal["stored", "replayed", "conflict"]
Name = tuple[str, str]  # a tenant, and an id or draft of its own

_NAMES = {"tenant": "TEXT", "name": "TEXT"}


@dataclass(frozen=True, slots=True)
class Batch:
    """One transaction's work: the database it goes to and the statement runner of the open transaction."""

    database: Database
    execute: Execute

    def sort_out(self, events: Sequence[Event]) -> tuple[list[Event], tuple[Outcome, ...]]:
        """The events that are new, and what becomes of each: an id that is known is a replay or a conflict."""
        known: dict[Name, tuple[str | None, str]] = {
            (tenant, name): (salt, digest)
            for tenant, name, salt, digest in self._look_up("id", [(event.tenant, event.id) for event in events])
        }
        fresh: dict[Name, Event] = {}
        outcomes: list[Outcome] = []
        for event in events:
            name = (event.tenant, event.id)
            if name in known:
                salt, digest = known[name]
                same = salt is not None and digest == digest_of(salt, event.body)
                outcomes.append("replayed" if same else "conflict")
            elif name in fresh:
                outcomes.append("replayed" if fresh[name].body == event.body else "conflict")
            else:
                fresh[name] = event
                outcomes.append("stored")
        return list(fresh.values()), tuple(outcomes)

    def slices(self, events: Sequence[Event]) -> dict[Name, Name]:
        """Model and category of the drafts that `events` leave theirs to, in this batch or stored before."""
        wanted = {(event.tenant, event.draft) for event in events if event.model is None or event.category is None}
        rows = self._look_up("draft", sorted(wanted)) if wanted else []
        found = {(tenant, draft): (model, category) for tenant, draft, model, category in rows}
        return found | {
            (event.tenant, event.draft): (event.model or "", event.category or "")
            for event in events
            if event.kind == "draft"
        }

    def insert(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add the rows, and what they add to the sums and histograms."""
        names = ", ".join(EVENT_COLUMNS)
        self.execute(
            f"INSERT INTO events ({names}) SELECT {names} FROM {self.database.table(EVENT_COLUMNS)}",
            {"rows": json.dumps(rows, ensure_ascii=False)},
        )
        sums = Sums()
        for row in rows:
            sums.add(row)
        self.add("rollups", dict.fromkeys(ROLLUP_KEYS, "TEXT"), ROLLUP_SUMS, sums.rollup_rows())
        self.add("bins", dict.fromkeys(BIN_KEYS, "TEXT") | {"bin": "INTEGER"}, ("count",), sums.bin_rows())

    def add(self, table: str, keys: Mapping[str, str], sums: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        """Add to the sums of a table's rows, making those that are missing."""
        if not rows:
            return
        columns = {**keys, **{name: "{real}" if name == "distance_sum" else "{big}" for name in sums}}
        names = ", ".join(columns)
        moved = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in sums)
        self.execute(
            # SQLite wants the WHERE to tell ON CONFLICT from a join's ON.
            f"INSERT INTO {table} ({names}) SELECT {names} FROM {self.database.table(columns)} WHERE true"
            f" ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {moved}",
            {"rows": json.dumps(rows, ensure_ascii=False)},
        )

    def _look_up(self, column: Literal["id", "draft"], names: Sequence[Name]) -> list[tuple[Any, ...]]:
        """Tenant, name and two more columns of the stored events that have one of `names`."""
        rest = "salt, digest" if column == "id" else "model, category"
        only = "" if column == "id" else " AND kind = 'draft'"
        return self.execute(
            f"SELECT events.tenant, events.{column}, {rest} FROM {self.database.table(_NAMES)} CROSS JOIN events"
            f" WHERE events.tenant = given.tenant AND events.{column} = given.name{only}",
            {"rows": json.dumps([{"tenant": tenant, "name": name} for tenant, name in names])},
        )


def row_of(event: Event, slices: Mapping[Name, Name]) -> dict[str, Any]:
    """The columns of an event but for its place in the chain; an empty model is one that nobody named."""
    model, category = slices.get((event.tenant, event.draft), ("", ""))
    salt = os.urandom(16).hex()
    return {
        "tenant": event.tenant,
        "id": event.id,
        "kind": event.kind,
        "conversation": event.conversation,
        "draft": event.draft,
        "model": event.model or model,
        "category": event.category or category,
        "actor": event.actor,
        "at_ms": event.at_ms,
        "up": None if event.up is None else int(event.up),
        "length": event.length_characters,
        "distance": event.distance,
        "latency_ms": event.latency_ms,
        "body": event.body,
        "salt": salt,
        "digest": digest_of(salt, event.body),
    }
