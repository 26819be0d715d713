"""What became of a model's drafts in production: how many were escalated, and how many a person's words replaced."""

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from evenhand.errors import UserError
from evenhand.evaluation.interval import wilson
from evenhand.figure import Figure
from evenhand.service.event import Kind
from evenhand.service.place import open_database
from evenhand.service.store import Store

_OVERRIDES: tuple[Kind, ...] = ("edit", "takeover")


def open_feedback(place: str) -> Store:
    """The store in a monitor's folder, in its file, or behind a PostgreSQL URL; raises UserError where there is none."""
    if "://" in place:
        return Store(open_database(place, make=False))
    file = Path(place) / "events.db" if Path(place).is_dir() else Path(place)
    if not file.is_file():
        raise UserError(f"{place} holds no events; give the folder of `evenhand monitor`, or a database's URL.")
    return Store(open_database(str(file), make=False))


def production_of(store: Store, tenant: str, names: Collection[str]) -> dict[str, Any] | None:
    """The shares of drafts that were escalated, and edited or taken over, of the model that events call by any of `names`.

    None where no draft of it is stored. Wilson's intervals take drafts as independent, which those of one conversation
    are not quite.
    """
    counts: Counter[Kind] = Counter()
    for model, kind, count, _ in store.totals(tenant):
        if model in names:
            counts[kind] += count
    if not counts["draft"]:
        return None
    overridden = sum(counts[kind] for kind in _OVERRIDES)
    return {
        "escalated": _share(counts["escalation"], counts["draft"]).json(),
        "overridden": _share(overridden, counts["draft"]).json(),
    }


def _share(count: int, drafts: int) -> Figure:
    """Of drafts; one that was edited and then taken over counts twice, but no share is above 1."""
    value = min(1.0, count / drafts)
    return Figure(value, drafts, *wilson(value, drafts))
