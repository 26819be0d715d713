"""The chain that seals stored events: each row's link is a hash of the row before, of its own place and of its body."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evenhand.errors import DataError
from evenhand.files import canonical_json, sha256
from evenhand.service.database import Database, Row
from evenhand.service.event import read_event
from evenhand.service.schema import EVENT_COLUMNS, NOTHING

# What a link seals besides the body, and what therefore stays after an erasure.
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
    """Recompute the whole chain, every body's digest and what the columns say of it, and add up the sums."""
    link, seq = NOTHING, 0
    with database.reading() as execute:
        head_seq, head_link = execute("SELECT seq, link FROM head WHERE one = 1")[0]
        sql = f"SELECT {', '.join(EVENT_COLUMNS)} FROM events WHERE seq > :after ORDER BY seq LIMIT {_PAGE}"
        while rows := execute(sql, {"after": seq}):
            for row in rows:
                if problem := _problem(row, seq, link):
                    return Verified(seq, link, problem)
                seq, link = row[0], row[-1]
        if (seq, link) != (head_seq, head_link):
            return Verified(seq, link, f"the chain ends at event {seq}, and its head says {head_seq}")
        counted = execute("SELECT COALESCE(SUM(count), 0) FROM rollups")[0][0]
    if counted != seq:
        return Verified(seq, link, f"the roll-ups count {counted} events, and {seq} are stored")
    return Verified(seq, link, None)


def _problem(values: Row, seq: int, link: str) -> str | None:
    row = dict(zip(EVENT_COLUMNS, values, strict=True))
    where = f"event {seq + 1}"
    if row["seq"] != seq + 1:
        return f"{where} is missing"
    if row["link"] != link_of(link, row):
        return f"{where} was changed, or does not follow the one before"
    if row["body"] is None:
        return None
    if row["digest"] != digest_of(row["salt"] or "", row["body"]):
        return f"the body of {where} was changed"
    try:
        event = read_event(row["tenant"], row["body"])
    except DataError as error:
        return f"the body of {where} is no event: {error}"
    names = ("id", "kind", "conversation", "draft", "actor", "at_ms", "latency_ms", "up")
    differing = [name for name in names if row[name] != getattr(event, name)]
    return f"{where}: column {differing[0]} was changed" if differing else None
