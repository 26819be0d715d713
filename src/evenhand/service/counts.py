"""How many drafts and thumbs there were and what became of them, out of the roll-ups; nothing here reads an event."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from evenhand.service.database import Database
from evenhand.service.policy import SIGNALS, Signal
from evenhand.service.sequence import Tally

Column = Literal["day", "tenant", "model", "category"]


@dataclass(frozen=True, slots=True)
class Counts:
    """Drafts, thumbs, and how many of each signal: thumbs that point down, and events of the other kinds."""

    drafts: int = 0
    thumbs: int = 0
    hits: Mapping[Signal, int] = field(default_factory=dict)

    def __add__(self, other: "Counts") -> "Counts":
        return self._with(other, lambda mine, theirs: mine + theirs)

    def __sub__(self, other: "Counts") -> "Counts":
        return self._with(other, lambda mine, theirs: mine - theirs)

    def tally(self, signal: Signal) -> Tally:
        """The signal as hits of trials; a draft that was taken over twice makes no two of one."""
        trials = self.thumbs if signal == "thumb_down" else self.drafts
        return Tally(min(self.hits.get(signal, 0), trials), trials)

    def json(self) -> dict[str, Any]:
        """The counts as they are kept."""
        return {"drafts": self.drafts, "thumbs": self.thumbs, "hits": dict(self.hits)}

    def _with(self, other: "Counts", do: Callable[[int, int], int]) -> "Counts":
        hits = {signal: do(self.hits.get(signal, 0), other.hits.get(signal, 0)) for signal in SIGNALS}
        return Counts(do(self.drafts, other.drafts), do(self.thumbs, other.thumbs), hits)


def counts_of(value: Mapping[str, Any]) -> Counts:
    """Counts back from their JSON."""
    return Counts(value["drafts"], value["thumbs"], value["hits"])


def total(counts: Iterable[Counts]) -> Counts:
    """All of them together.

    >>> total([Counts(3, 1), Counts(4)]).drafts
    7
    """
    found = Counts()
    for one in counts:
        found += one
    return found


def read_counts(
    database: Database, by: Sequence[Column], tenant: str | None = None, since: str = "", models: Collection[str] = ()
) -> dict[tuple[str, ...], Counts]:
    """Counts of one tenant or all from the day `since` on, of `models` where any are named, by the values of columns."""
    columns = ", ".join(by)
    only = "" if tenant is None else " AND tenant = :tenant"
    if models:
        only += f" AND model IN (SELECT model FROM {database.table({'model': 'TEXT'})})"
    sql = (
        f"SELECT {columns}, kind, SUM(count), SUM(ups) FROM rollups WHERE day >= :since{only}"
        f" GROUP BY {columns}, kind ORDER BY {columns}"
    )
    named = json.dumps([{"model": model} for model in sorted(models)])
    with database.reading() as execute:
        rows = execute(sql, {"since": since, "tenant": tenant, "rows": named})
    kinds: dict[tuple[str, ...], dict[str, tuple[int, int]]] = {}
    for *where, kind, count, ups in rows:
        kinds.setdefault(tuple(where), {})[kind] = (int(count), int(ups))
    return {where: _counts(found) for where, found in kinds.items()}


def _counts(kinds: Mapping[str, tuple[int, int]]) -> Counts:
    thumbs, ups = kinds.get("thumb", (0, 0))
    hits: dict[Signal, int] = {signal: kinds.get(signal, (0, 0))[0] for signal in SIGNALS if signal != "thumb_down"}
    return Counts(kinds.get("draft", (0, 0))[0], thumbs, hits | {"thumb_down": thumbs - ups})
