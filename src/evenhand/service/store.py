"""What is kept of production: events in a chain of hashes, the sums that readers need, and what was refused.

One transaction adds a batch of events, their sums and the chain's new head; it is durable when `append` returns.
Readers see whole transactions, from any thread, and never wait for the writer.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evenhand.errors import UserError
from evenhand.files import canonical_json
from evenhand.service.batch import Batch, Outcome, row_of
from evenhand.service.chain import ERASURE, link_of
from evenhand.service.database import Database, Execute, Row
from evenhand.service.event import Event, Kind, day_of, read_event
from evenhand.service.place import open_database
from evenhand.service.sums import BIN_KEYS, ROLLUP_KEYS, ROLLUP_SUMS

# The tenant under which notices stand that no key could be found for.
NOBODY = ""
_STORED = "seq, tenant, id, kind, model, category, at_ms, received_ms, up, length, distance, latency_ms, body"


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of each event of a batch, in its order, and what there is to count of it by tenant and reason.

    The reasons: `replayed`, `conflict`, `without_draft` (no model was named and the draft is not known).
    """

    outcomes: tuple[Outcome, ...]
    notices: Mapping[tuple[str, str], int]


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as it is kept; `event` is None once it was erased. Model and category are "" where nobody named them.

    `seq` counts from 1 in the order in which events were acknowledged; `distance` is the share of an edited reply
    that a person changed.
    """

    seq: int
    tenant: str
    id: str
    kind: Kind
    model: str
    category: str
    at_ms: int
    received_ms: int
    up: bool | None
    length: int | None
    distance: float | None
    latency_ms: int | None
    event: Event | None


@dataclass(frozen=True, slots=True)
class Rollup:
    """The events of one day (UTC, of the event), tenant, model, category and kind: their count and sums.

    `ups` are thumbs that point up; lengths are in characters of the shown reply, latencies in milliseconds, distances
    shares of a reply that were changed. A sum's `_count` is the number of events that had the measure.
    """

    day: str
    tenant: str
    model: str
    category: str
    kind: Kind
    count: int
    ups: int
    length_sum: int
    length_count: int
    distance_sum: float
    distance_count: int
    latency_sum: int
    latency_count: int


@dataclass(frozen=True, slots=True)
class Bin:
    """How many drafts (length, latency) or edits (distance) fell into one bin of `bins.bin_of`."""

    day: str
    tenant: str
    model: str
    category: str
    measure: Literal["length", "distance", "latency"]
    bin: int
    count: int


@dataclass(frozen=True, slots=True)
class Notice:
    """How often something happened at the door on one day: a refusal, a replay, a late event; tenant or `NOBODY`."""

    day: str
    tenant: str
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class Record:
    """A decision or finding that is kept for good: its topic, when, and what it says."""

    seq: int
    topic: str
    at_ms: int
    content: Mapping[str, Any]


class Store:
    """The events of all tenants in one database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def append(self, events: Sequence[Event], received_ms: int) -> Appended:
        """Add what is new of `events`; durable on return. The same id twice counts once, with other content never.

        An event is never received before the one before it: a clock that was set back is not followed. Raises
        DatabaseFull or DatabaseAway, and then nothing of the batch was added.
        """
        with self.database.writing() as execute:
            seq, link, last_ms = _locked_head(execute)
            batch = Batch(self.database, execute)
            fresh, outcomes = batch.sort_out(events)
            slices = batch.slices(fresh)
            rows = []
            for event in fresh:
                seq += 1
                row = row_of(event, slices) | {"seq": seq, "received_ms": max(received_ms, last_ms)}
                link = row["link"] = link_of(link, row)
                rows.append(row)
            if rows:
                batch.insert(rows)
                _move_head(execute, seq, link, max(received_ms, last_ms))
        notices: Counter[tuple[str, str]] = Counter()
        notices.update((event.tenant, outcome) for event, outcome in zip(events, outcomes, strict=True))
        notices.update((row["tenant"], "without_draft") for row in rows if row["model"] == "")
        return Appended(outcomes, {name: count for name, count in notices.items() if name[1] != "stored"})

    def note(self, notices: Mapping[tuple[str, str], int], at_ms: int) -> None:
        """Count what happened at the door, by tenant and reason."""
        rows = [
            {"day": day_of(at_ms), "tenant": tenant, "reason": reason, "count": count}
            for (tenant, reason), count in sorted(notices.items())
        ]
        with self.database.writing() as execute:
            keys = {"day": "TEXT", "tenant": "TEXT", "reason": "TEXT"}
            Batch(self.database, execute).add("notices", keys, ("count",), rows)

    def record(self, topic: str, content: Mapping[str, Any], at_ms: int) -> None:
        """Keep a decision or finding: an alarm, a review, an erasure."""
        with self.database.writing() as execute:
            add_record(execute, topic, content, at_ms)

    def erase(self, tenant: str, what: Literal["actor", "conversation"], name: str, at_ms: int) -> tuple[str, ...]:
        """Remove all text, names and salts of one actor's or conversation's events; returns the events' ids.

        The rows stay as numbers under the same links, so that chain and counts still hold. That it was done is kept
        as a record of the topic `erasure`, without the name. The database's files forget the text too (see
        `Database.scrub`).
        """
        which = "tenant = :tenant AND actor = :name" if what == "actor" else "tenant = :tenant AND conversation = :name"
        values = {"tenant": tenant, "name": name}
        with self.database.writing() as execute:
            ids = [row[0] for row in execute(f"SELECT id FROM events WHERE {which} ORDER BY seq", values)]
            gone = "body = NULL, salt = NULL, conversation = NULL, draft = NULL, actor = NULL"
            execute(f"UPDATE events SET {gone} WHERE {which}", values)
            if ids:
                add_record(execute, ERASURE, {"tenant": tenant, "by": what, "ids": ids}, at_ms)
        self.database.scrub()
        return tuple(ids)

    def events(
        self, tenant: str, kinds: Iterable[Kind], after: int = 0, limit: int = 1000, newest: bool = False
    ) -> list[StoredEvent]:
        """Events of these kinds after number `after`: the oldest `limit` first, or the newest first."""
        order = "DESC" if newest else "ASC"
        sql = (
            f"SELECT {_STORED} FROM events WHERE tenant = :tenant AND kind = :kind AND seq > :after"
            f" ORDER BY seq {order} LIMIT :limit"
        )
        rows: list[Row] = []
        with self.database.reading() as execute:
            for kind in sorted(set(kinds)):
                rows += execute(sql, {"tenant": tenant, "kind": kind, "after": after, "limit": limit})
        return [_stored(row) for row in sorted(rows, key=lambda row: row[0], reverse=newest)[:limit]]

    def conversation(self, tenant: str, name: str, limit: int = 2**31) -> list[StoredEvent]:
        """The events of one conversation in order, the first `limit` of them."""
        sql = f"SELECT {_STORED} FROM events WHERE tenant = :tenant AND conversation = :name ORDER BY seq LIMIT :limit"
        with self.database.reading() as execute:
            return [_stored(row) for row in execute(sql, {"tenant": tenant, "name": name, "limit": limit})]

    def drafts(self, tenant: str, names: Iterable[str]) -> dict[str, StoredEvent]:
        """The drafts with these names, those that are known; of two with one name the first."""
        sql = (
            f"SELECT {', '.join(f'events.{name}' for name in _STORED.split(', '))}"
            f" FROM {self.database.table({'name': 'TEXT'})} CROSS JOIN events WHERE events.tenant = :tenant"
            " AND events.draft = given.name AND kind = 'draft' ORDER BY seq DESC"
        )
        given = json.dumps([{"name": name} for name in sorted(set(names))])
        with self.database.reading() as execute:
            found = [_stored(row) for row in execute(sql, {"tenant": tenant, "rows": given})]
        return {stored.event.draft: stored for stored in found if stored.event is not None}

    def rollups(self, since: str = "", tenant: str | None = None) -> list[Rollup]:
        """Counts and sums from the day `since` (2026-11-25) on, of one tenant or all, by day."""
        return [Rollup(*row) for row in self._of_day("rollups", (*ROLLUP_KEYS, *ROLLUP_SUMS), since, tenant)]

    def totals(self, tenant: str) -> list[tuple[str, Kind, int, int]]:
        """Model, kind, count and thumbs up of everything stored of one tenant."""
        sql = (
            "SELECT model, kind, SUM(count), SUM(ups) FROM rollups WHERE tenant = :tenant"
            " GROUP BY model, kind ORDER BY model, kind"
        )
        with self.database.reading() as execute:
            rows = execute(sql, {"tenant": tenant})
        return [(model, kind, int(count), int(ups)) for model, kind, count, ups in rows]

    def bins(self, since: str = "", tenant: str | None = None) -> list[Bin]:
        """Histograms from the day `since` on, by day."""
        return [Bin(*row) for row in self._of_day("bins", (*BIN_KEYS, "count"), since, tenant)]

    def notices(self, since: str = "", tenant: str | None = None) -> list[Notice]:
        """What happened at the door from the day `since` on, by day."""
        return [Notice(*row) for row in self._of_day("notices", ("day", "tenant", "reason", "count"), since, tenant)]

    def records(self, topic: str, after: int = 0) -> list[Record]:
        """What was kept under a topic, in order."""
        sql = "SELECT seq, topic, at_ms, content FROM records WHERE topic = :topic AND seq > :after ORDER BY seq"
        with self.database.reading() as execute:
            rows = execute(sql, {"topic": topic, "after": after})
        return [Record(seq, topic, at_ms, json.loads(content)) for seq, topic, at_ms, content in rows]

    def head(self) -> tuple[int, str]:
        """The last event's number and link: what a record of the store's state needs to hold."""
        with self.database.reading() as execute:
            seq, link = execute("SELECT seq, link FROM head WHERE one = 1")[0]
        return seq, link

    def _of_day(self, table: str, names: Sequence[str], since: str, tenant: str | None) -> list[Row]:
        only = "" if tenant is None else " AND tenant = :tenant"
        sql = f"SELECT {', '.join(names)} FROM {table} WHERE day >= :since{only} ORDER BY day"
        with self.database.reading() as execute:
            return execute(sql, {"since": since} | ({} if tenant is None else {"tenant": tenant}))


def _locked_head(execute: Execute) -> tuple[int, str, int]:
    """The last event's number, link and moment; on PostgreSQL, services that share the chain take turns here."""
    execute("UPDATE head SET one = 1 WHERE one = 1")
    seq, link, received_ms = execute("SELECT seq, link, received_ms FROM head WHERE one = 1")[0]
    return seq, link, received_ms


def _move_head(execute: Execute, seq: int, link: str, received_ms: int) -> None:
    sql = "UPDATE head SET seq = :seq, link = :link, received_ms = :received WHERE one = 1"
    execute(sql, {"seq": seq, "link": link, "received": received_ms})


def add_record(execute: Execute, topic: str, content: Mapping[str, Any], at_ms: int) -> None:
    """Keep a decision or finding within an open transaction."""
    values = {"topic": topic, "at": at_ms, "content": canonical_json(content).decode()}
    execute("INSERT INTO records (topic, at_ms, content) VALUES (:topic, :at, :content)", values)


def _stored(row: Row) -> StoredEvent:
    *columns, body = row
    columns[8] = None if columns[8] is None else bool(columns[8])
    columns.append(None if body is None else read_event(columns[1], body))
    return StoredEvent(*columns)


@contextmanager
def existing_store(place: str) -> Iterator[Store]:
    """The store in a folder, a file or behind a URL, closed afterwards; raises UserError where there is none."""
    path = Path(place) / "events.db" if "://" not in place and Path(place).is_dir() else Path(place)
    if "://" not in place and not path.is_file():
        raise UserError(f"{path} is not there; give the folder of `evenhand monitor`, or postgresql://...")
    database = open_database(place if "://" in place else str(path), make=False)
    try:
        yield Store(database)
    finally:
        database.close()
