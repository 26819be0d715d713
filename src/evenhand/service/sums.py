"""What events add to the roll-ups and histograms, by day, tenant, model and category."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evenhand.service.bins import bin_of
from evenhand.service.database import Execute
from evenhand.service.event import day_of

Key = tuple[Any, ...]

_SLICE = ("day", "tenant", "model", "category")
_MEASURES = {"length": "length", "distance": "distance", "latency": "latency_ms"}
ROLLUP_KEYS = (*_SLICE, "kind")
ROLLUP_SUMS = (
    "count",
    "ups",
    "length_sum",
    "length_count",
    "distance_sum",
    "distance_count",
    "latency_sum",
    "latency_count",
)
BIN_KEYS = (*_SLICE, "measure", "bin")


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums by `ROLLUP_KEYS` and counts by `BIN_KEYS` of the events that were added."""

    rollups: dict[Key, dict[str, Any]] = field(default_factory=dict)
    bins: Counter[Key] = field(default_factory=Counter)

    def add(self, row: Mapping[str, Any]) -> None:
        """Add one event. Lengths and latencies are a draft's, distances an edit's: what readers ask the median of."""
        where = (day_of(row["at_ms"]), row["tenant"], row["model"], row["category"])
        into = self.rollups.setdefault((*where, row["kind"]), dict.fromkeys(ROLLUP_SUMS, 0))
        into["count"] += 1
        into["ups"] += row["up"] or 0
        for measure, column in _MEASURES.items():
            if (value := row[column]) is None:
                continue
            into[f"{measure}_sum"] += value
            into[f"{measure}_count"] += 1
            if row["kind"] == ("edit" if measure == "distance" else "draft"):
                self.bins[*where, measure, bin_of(value)] += 1

    def rollup_rows(self) -> list[dict[str, Any]]:
        """Rows of the table `rollups`."""
        return [dict(zip(ROLLUP_KEYS, key, strict=True)) | self.rollups[key] for key in sorted(self.rollups)]

    def bin_rows(self) -> list[dict[str, Any]]:
        """Rows of the table `bins`."""
        return [dict(zip((*BIN_KEYS, "count"), (*key, self.bins[key]), strict=True)) for key in sorted(self.bins)]

    def differing(self, execute: Execute) -> Iterator[str]:
        """Where the stored sums are others, in words."""
        rollups = {key: tuple(sums.values()) for key, sums in self.rollups.items()}
        yield from _differing(execute, "rollups", ROLLUP_KEYS, ROLLUP_SUMS, rollups)
        yield from _differing(
            execute, "bins", BIN_KEYS, ("count",), {key: (count,) for key, count in self.bins.items()}
        )


def same(one: object, other: object) -> bool:
    """Whether two values are equal, floats but for the last digits, which the order of adding up decides."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9)
    return one == other


def _differing(
    execute: Execute, table: str, keys: Sequence[str], sums: Sequence[str], told: dict[Key, Key]
) -> Iterator[str]:
    for row in execute(f"SELECT {', '.join((*keys, *sums))} FROM {table} ORDER BY {', '.join(keys)}"):
        key, found = row[: len(keys)], row[len(keys) :]
        for name, value, expected in zip(sums, found, told.pop(key, (0,) * len(sums)), strict=True):
            if not same(value, expected):
                yield f"{table}, {', '.join(map(str, key))}: {name} is {value}, and the events give {expected}"
    for key, expected in told.items():
        yield f"{table}, {', '.join(map(str, key))}: nothing is there, and the events give a count of {expected[0]}"
