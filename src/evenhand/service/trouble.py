"""The conversations that are most worth reading: those in which most went wrong lately, and one of them in full."""

from collections.abc import Sequence
from dataclasses import dataclass

from evenhand.data.contest import INVISIBLE
from evenhand.data.patterns import redact
from evenhand.service.bulletin import day_and_time
from evenhand.service.event import Kind
from evenhand.service.store import Store, StoredEvent

# What each is worth; an edit counts by how much of the reply it changed.
_WEIGHTS: dict[Kind, float] = {"takeover": 3.0, "escalation": 3.0, "thumb": 2.0, "abandoned": 2.0, "edit": 2.0}
_NEWEST = 300
_SHOWN = 12
_LONGEST = 400
_MOST_EVENTS = 300
_WORDS: dict[Kind, str] = {
    "draft": "drafted",
    "thumb": "thumb",
    "edit": "edited and sent",
    "takeover": "taken over",
    "escalation": "escalated",
    "abandoned": "abandoned",
    "sent": "sent as it was",
}


@dataclass(frozen=True, slots=True)
class Trouble:
    """A conversation with what went wrong in it, in order, and the reply that it began with."""

    conversation: str
    category: str
    model: str
    latest: str
    what: tuple[str, ...]
    reply: str


@dataclass(frozen=True, slots=True)
class Passage:
    """One event of a conversation as a person reads it; `texts` are labelled."""

    when: str
    what: str
    by: str
    model: str
    texts: tuple[tuple[str, str], ...]


def worst(store: Store, tenant: str) -> list[Trouble]:
    """The conversations with most trouble among the newest events of each kind; the worst first, then the latest."""
    found: dict[str, list[StoredEvent]] = {}
    for kind in _WEIGHTS:
        for stored in store.events(tenant, (kind,), limit=_NEWEST, newest=True):
            if stored.event is not None and _weight(stored) > 0:
                found.setdefault(stored.event.conversation, []).append(stored)
    ranked = sorted(found.items(), key=lambda one: (-sum(map(_weight, one[1])), -max(own.seq for own in one[1])))[
        :_SHOWN
    ]
    drafts = store.drafts(tenant, [own.event.draft for _, events in ranked for own in events if own.event])
    return [_trouble(name, sorted(events, key=lambda own: own.seq), drafts) for name, events in ranked]


def passages(store: Store, tenant: str, conversation: str) -> list[Passage]:
    """Everything that is kept of a conversation, in order; of a very long one the beginning."""
    return [_passage(stored) for stored in store.conversation(tenant, conversation, _MOST_EVENTS)]


def readable(text: str) -> str:
    """Text with invisible characters spelled out and personal data named by its kind."""
    return redact(INVISIBLE.sub(lambda match: f"[U+{ord(match[0]):04X}]", text))


def _weight(stored: StoredEvent) -> float:
    if stored.kind == "thumb" and stored.up:
        return 0.0
    return _WEIGHTS[stored.kind] * (stored.distance or 0.0 if stored.kind == "edit" else 1.0)


def _trouble(name: str, events: Sequence[StoredEvent], drafts: dict[str, StoredEvent]) -> Trouble:
    last = events[-1]
    known = [drafts[own.event.draft] for own in events if own.event and own.event.draft in drafts]
    reply = known[0].event.text if known and known[0].event else None
    shown = readable(reply or "")
    return Trouble(
        name,
        last.category,
        last.model,
        day_and_time(last.at_ms),
        tuple(_what(own) for own in events),
        shown if len(shown) <= _LONGEST else shown[:_LONGEST] + " …",
    )


def _what(stored: StoredEvent) -> str:
    if stored.kind == "thumb":
        return "thumb up" if stored.up else "thumb down"
    if stored.kind == "edit" and stored.distance is not None:
        return f"edited by {stored.distance * 100:.0f} %"
    return _WORDS[stored.kind]


def _passage(stored: StoredEvent) -> Passage:
    event = stored.event
    if event is None:
        return Passage(day_and_time(stored.at_ms), _what(stored), "", stored.model, (("", "erased"),))
    texts: list[tuple[str, str]] = [(turn.role, turn.content) for turn in event.prompt]
    texts += [
        (label, text) for label, text in (("reply", event.text), ("sent", event.sent), ("reason", event.reason)) if text
    ]
    told = tuple((label, readable(text)) for label, text in texts)
    return Passage(day_and_time(stored.at_ms), _what(stored), event.actor or "", stored.model, told)
