"""A bot and its agents on the built-in tickets, whose behaviour changes at a known draft: for demos, tests and drills."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any

from evenhand.data.harbor.items import Item, draw_items
from evenhand.errors import UserError

_ITEMS_AT_ONCE = 500
_START = datetime(2026, 1, 5, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What becomes of a draft, as probabilities: at most one of the first four happens, else it is sent as it is.

    `thumb` is how often the customer judges, `up` how many of those like a reply that was sent as it is; what was
    edited or taken over is not liked. `latency_ms` is the median time to draft. Raises UserError for no probability.
    """

    edit: float = 0.10
    takeover: float = 0.08
    escalation: float = 0.03
    abandoned: float = 0.04
    thumb: float = 0.15
    up: float = 0.85
    latency_ms: int = 900

    def __post_init__(self) -> None:
        for rate in fields(self)[:6]:
            if not 0.0 <= getattr(self, rate.name) <= 1.0:
                raise UserError(f"{rate.name} is {getattr(self, rate.name)}; choose a probability from 0 to 1.")
        if self.edit + self.takeover + self.escalation + self.abandoned > 1.0:
            raise UserError("edit, takeover, escalation and abandoned add up to more than 1; choose lower ones.")


@dataclass(frozen=True, slots=True)
class Simulation:
    """`drafts` drafts by `model`, `per_day` of them a day, which behave as `before`, and as `after` from draft number
    `change_at` on (counted from 0, None for no change). The same values give the same events.
    """

    drafts: int
    seed: int = 0
    change_at: int | None = None
    before: Behaviour = field(default_factory=Behaviour)
    after: Behaviour = field(default_factory=Behaviour)
    model: str = "harbor-1"
    per_day: int = 1000
    agents: int = 12
    start: datetime = _START


def simulated(wanted: Simulation) -> Iterator[dict[str, Any]]:
    """The events in the form in which a bot sends them, each draft before what becomes of it, drafts by time."""
    rng = random.Random(wanted.seed)
    items = _items(wanted.drafts, rng)
    for number, item in enumerate(items):
        changed = wanted.change_at is not None and number >= wanted.change_at
        yield from _life(wanted, number, item, (wanted.after if changed else wanted.before, rng))


def _items(count: int, rng: random.Random) -> Iterator[Item]:
    for start in range(0, count, _ITEMS_AT_ONCE):
        yield from draw_items(min(_ITEMS_AT_ONCE, count - start), 0, rng)


def _life(
    wanted: Simulation, number: int, item: Item, how: tuple[Behaviour, random.Random]
) -> Iterator[dict[str, Any]]:
    """One draft and what becomes of it."""
    behaviour, rng = how
    fate = _fate(behaviour, rng)
    good, bad = (item.answer_a, item.answer_b) if item.better == "a" else (item.answer_b, item.answer_a)
    drafted = good if fate in ("sent", "abandoned") else bad
    when = wanted.start + timedelta(days=number / wanted.per_day)
    agent, customer = f"agent-{rng.randrange(wanted.agents):02d}", f"customer-{number:06d}"

    def happens(kind: str, minutes: float, **fields: Any) -> dict[str, Any]:
        about = {
            "id": f"s{wanted.seed}-{number:06d}-{kind}",
            "kind": kind,
            "conversation": f"c{wanted.seed}-{number:06d}",
            "draft": f"d{wanted.seed}-{number:06d}",
            "at": (when + timedelta(minutes=minutes)).isoformat(timespec="milliseconds"),
        }
        return about | fields

    yield happens(
        "draft",
        0,
        model=wanted.model,
        category=item.family.category,
        actor=customer,
        prompt=[{"role": "user", "content": item.prompt}],
        text=drafted,
        latency_ms=round(behaviour.latency_ms * rng.lognormvariate(0, 0.5)),
    )
    more: dict[str, Any] = {"edit": {"text": drafted, "sent": good}, "takeover": {"sent": good}}.get(fate, {})
    yield happens(fate, rng.uniform(1, 9), actor=customer if fate == "abandoned" else agent, **more)
    if rng.random() < behaviour.thumb:
        yield happens("thumb", rng.uniform(10, 60), actor=customer, up=fate == "sent" and rng.random() < behaviour.up)


def _fate(behaviour: Behaviour, rng: random.Random) -> str:
    drawn = rng.random()
    for kind in ("edit", "takeover", "escalation", "abandoned"):
        drawn -= getattr(behaviour, kind)
        if drawn < 0:
            return kind
    return "sent"
