"""The ticket families of Harbor Support: one situation each, with its ticket, its replies and its slots."""

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from evenhand.errors import DataError

CATEGORIES = ("billing", "shipping", "returns", "account", "technical")
GOOD = ("brief", "full")
BAD = ("padded", "curt", "stray", "stray_brief")

_SLOT = re.compile(r"\{(\w+)\}")
_TEXTS = ("ticket", *GOOD, *BAD)


@dataclass(frozen=True, slots=True)
class Family:
    """One situation: `texts` holds its ticket, two good and four bad replies; `slots` the values each slot may take."""

    id: str
    category: str
    texts: Mapping[str, str]
    slots: Mapping[str, tuple[str, ...]]

    def names(self, text: str) -> frozenset[str]:
        """The slots that `text` ("ticket", "brief", ...) uses."""
        return frozenset(_SLOT.findall(self.texts[text]))

    def fill(self, text: str, values: Mapping[str, str]) -> str:
        """`text` with every slot replaced by its value."""
        return _SLOT.sub(lambda slot: values[slot[1]], self.texts[text])


@cache
def load_families() -> tuple[Family, ...]:
    """All families, category by category, in the order in which they were written.

    Raises DataError when a family lacks a text or uses a slot that has no values.
    """
    common = _slot_values(_read("slots"))
    return tuple(_family(row, category, common) for category in CATEGORIES for row in _read(category))


def draw_instances(family: Family, rng: random.Random) -> Iterator[dict[str, str]]:
    """Endless slot values for one family; neighbouring instances share as few values as the lists allow."""
    names = sorted(frozenset().union(*(family.names(text) for text in _TEXTS)))
    decks = {name: _deck(family.slots[name], rng) for name in names}
    while True:
        values: dict[str, str] = {}
        for name in names:
            values[name] = _draw(decks[name], taken={values.get(name.rstrip("2"))})
        yield {name: _digits(value, rng) for name, value in values.items()}


def _draw(deck: Iterator[str], taken: set[str | None]) -> str:
    return next(value for value in deck if value not in taken)


def _deck(values: tuple[str, ...], rng: random.Random) -> Iterator[str]:
    while True:
        yield from rng.sample(values, len(values))


def _digits(pattern: str, rng: random.Random) -> str:
    return re.sub("#", lambda _: rng.choice("123456789"), pattern)


def _read(name: str) -> Any:
    return yaml.safe_load(resources.files(__package__).joinpath(f"{name}.yaml").read_text(encoding="utf-8"))


def _slot_values(lists: Mapping[str, list[Any]]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(str(value) for value in values) for name, values in lists.items()}


def _family(row: Mapping[str, Any], category: str, common: Mapping[str, tuple[str, ...]]) -> Family:
    texts = {name: row[name] for name in _TEXTS if name in row}
    if lost := set(_TEXTS) - texts.keys():
        raise DataError(f"{category}.yaml: family {row['id']} lacks {sorted(lost)}; write these texts.")
    own = _slot_values(row.get("slots", {}))
    used = {slot for text in texts.values() for slot in _SLOT.findall(text)}
    slots = {name: own.get(name) or common.get(name) or _of_base(name, own, common) for name in sorted(used)}
    if empty := [name for name, values in slots.items() if not values]:
        raise DataError(f"{category}.yaml: family {row['id']} uses slots without values: {empty}; add them to `slots`.")
    return Family(id=row["id"], category=category, texts=texts, slots=slots)


def _of_base(name: str, own: Mapping[str, tuple[str, ...]], common: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """A second day, month or date draws from the list of the first."""
    base = name.rstrip("2")
    return own.get(base) or common.get(base) or ()
