"""The chain that seals stored events: each row's link is a hash of the row before, of its own place and of its body."""

import json
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from evenhand.errors import DataError
from evenhand.files import canonical_json, sha256
from evenhand.service.database import Database, Execute
from evenhand.service.event import read_event
from evenhand.service.schema import EVENT_COLUMNS, NOTHING
from evenhand.service.sums import Sums, same

# The topic of the records that say whose events were erased.
ERASURE = "erasure"
# What a link seals besides the body, and what therefore stays after an erasure. `distance` is not among it: it is compared
# with its body while that is there, and once it is erased nothing vouches for it but the sum that it is part of.
LINKED = (
    "seq",
    "tenant",
    "id",
    "kind",
    "model",
    "category",
    "at_ms",
    "received_ms",
    "up",
    "length",
    "latency_ms",
    "digest",
)
_PAGE = 2000


@dataclass(frozen=True, slots=True)
class Verified:
    """How many events were looked at, the chain's head, and the first thing that is wrong, None where nothing is."""

    events: int
    head: str
    problem: str | None


def digest_of(salt: str, body: str) -> str:
    """The salted hash by which a stored body is recognised."""
    return sha256((salt + body).encode())


def link_of(previous: str, row: Mapping[str, Any]) -> str:
    """The link of a row that follows the link `previous`."""
    return sha256(canonical_json([previous, *(row[name] for name in LINKED)]))


def verify(database: Database) -> Verified:
    """Recompute the whole chain, every body's digest and what the columns say of it, and all sums by day, model and kind.

    A body may be missing where an erasure is on record, and nowhere else.
    """
    link, seq, sums = NOTHING, 0, Sums()
    with database.reading() as execute:
        head_seq, head_link = execute("SELECT seq, link FROM head WHERE one = 1")[0]
        erased = _erased(execute)
        sql = f"SELECT {', '.join(EVENT_COLUMNS)} FROM events WHERE seq > :after ORDER BY seq LIMIT {_PAGE}"
        while rows := execute(sql, {"after": seq}):
            for values in rows:
                row = dict(zip(EVENT_COLUMNS, values, strict=True))
                if problem := _broken(row, seq, link) or _body_problem(row, erased):
                    return Verified(seq, link, problem)
                sums.add(row)
                seq, link = row["seq"], row["link"]
        if (seq, link) != (head_seq, head_link):
            return Verified(seq, link, f"the chain ends at event {seq}, and its head says {head_seq}")
        return Verified(seq, link, next(sums.differing(execute), None))


def _erased(execute: Execute) -> set[tuple[str, str]]:
    """Tenant and id of every event whose erasure is on record."""
    rows = execute("SELECT content FROM records WHERE topic = :topic", {"topic": ERASURE})
    return {(record["tenant"], name) for (text,) in rows for record in [json.loads(text)] for name in record["ids"]}


def _broken(row: Mapping[str, Any], seq: int, link: str) -> str | None:
    if row["seq"] != seq + 1:
        return f"event {seq + 1} is missing"
    if row["link"] != link_of(link, row):
        return f"event {seq + 1} was changed, or does not follow the one before"
    return None


def _body_problem(row: Mapping[str, Any], erased: Set[tuple[str, str]]) -> str | None:
    where = f"event {row['seq']}"
    if row["body"] is None:
        told = (row["tenant"], row["id"]) in erased
        return None if told else f"the body of {where} was removed, and no erasure is on record"
    if row["digest"] != digest_of(row["salt"] or "", row["body"]):
        return f"the body of {where} was changed"
    try:
        event = read_event(row["tenant"], row["body"])
    except DataError as error:
        return f"the body of {where} is no event: {error}"
    names = ("id", "kind", "conversation", "draft", "actor", "at_ms", "latency_ms", "up", "distance")
    differing = [name for name in names if not same(row[name], getattr(event, name))]
    return f"{where}: column {differing[0]} was changed" if differing else None
