"""A collection: judgments, unpaired thumbs and what was held back, each row naming its events, and a record of it all."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evenhand.data.facts import Tell, silent
from evenhand.errors import DataError
from evenhand.files import content_root, sha256_file, write_json, write_whole
from evenhand.service.chain import ERASURE
from evenhand.service.flywheel.claim import Claim
from evenhand.service.flywheel.harvest import Harvest, Scope, harvest
from evenhand.service.flywheel.pairing import ThumbPairs, rejections, sent_pairs, settled, thumb_pairs
from evenhand.service.flywheel.quarantine import Held, QuarantineRules, Sifted, sift
from evenhand.service.flywheel.shelf import Before, Row, Shelf, json_lines
from evenhand.service.store import Store

FORMAT = "evenhand-collection/1"


@dataclass(frozen=True, slots=True)
class Order:
    """What to collect: a tenant's events since a moment, how thumbs are paired, and how the quarantine judges.

    `tell` hears of progress.
    """

    tenant: str = "default"
    since_ms: int = 0
    thumb_pairs: ThumbPairs = "same"
    rules: QuarantineRules = field(default_factory=QuarantineRules)
    tell: Tell = silent


@dataclass(frozen=True, slots=True)
class Gathered:
    """What a store's events amount to: judgments and thumbs that passed, what was held back, what said nothing.

    `released` are the ids that a person let pass and that are there.
    """

    judgments: tuple[Claim, ...]
    thumbs: tuple[Claim, ...]
    held: tuple[Held, ...]
    left_out: Mapping[str, int]
    released: frozenset[str]


def collect(store: Store, order: Order, shelf: Shelf, released: Iterable[str] = ()) -> dict[str, Any]:
    """Write the collection to `shelf`, whole, and return its record; the same store and order give the same bytes.

    Ids in `released` pass the quarantine. What lay on the shelf before is replaced, and the record says what changed
    and which rows went because an event of theirs was erased. Raises DataError where no event makes a row and none ever did.
    """
    with shelf.alone():
        return _collected(store, order, shelf, frozenset(released))


def _collected(store: Store, order: Order, shelf: Shelf, released: frozenset[str]) -> dict[str, Any]:
    events, head = store.head()
    found = gather(store, order, events, released)
    before = shelf.before()
    if before is None and not (found.judgments or found.thumbs or found.held):
        raise DataError(_nothing(order, events, found.left_out))
    rows = {
        shelf.judgments: [claim.row() for claim in found.judgments],
        shelf.thumbs: [claim.row() for claim in found.thumbs],
        shelf.held: [held_row(one) for one in found.held],
    }
    with shelf.replacing(before):
        for path, own in rows.items():
            write_whole(path, json_lines(own))
        record = {
            "format": FORMAT,
            "hash": content_root([*rows[shelf.judgments], *rows[shelf.thumbs]]),
            "tenant": order.tenant,
            "store": {"events": events, "head": head},
            "rules": {"since_ms": order.since_ms, "thumb_pairs": order.thumb_pairs, **order.rules.json()},
            **_counts(found),
            "files": {path.relative_to(shelf.record.parent).as_posix(): sha256_file(path) for path in rows},
        }
        record |= _changed(record, before, _erased(store, order.tenant), rows)
        write_json(shelf.record, record)
    return record


def gather(store: Store, order: Order, last: int, released: frozenset[str]) -> Gathered:
    """Events up to number `last` to claims, through the quarantine, and what follows from the claims that passed it."""
    scope = Scope(order.tenant, order.since_ms, last, order.tell)
    reaped = harvest(store, scope)
    first = sift(reaped.claims, order.rules, reaped.odd, released)
    thumbs = settled([own for own in first.passed if own.origin == "thumb"])
    # What is held back makes no pair, but a reply that it calls bad must not win one either.
    refused = {own.draft for own in reaped.claims if own.lost}
    sent = sent_pairs(store, scope, rejections(thumbs, first.passed), refused)
    derived = (*sent, *thumb_pairs(thumbs, order.thumb_pairs))
    second = sift(derived, order.rules, (), released)
    judgments = tuple(own for own in (*first.passed, *second.passed) if own.is_pair)
    passed = released & {own.id for own in (*first.passed, *second.passed)}
    return Gathered(judgments, thumbs, (*first.held, *second.held), _left_out(reaped, first, thumbs), passed)


def held_row(held: Held) -> dict[str, Any]:
    """A row that is held back: to let it pass, a person sets `release` to true and gives the file back."""
    return {"release": False, "reason": held.reason, "detail": held.detail} | held.claim.row()


def _left_out(reaped: Harvest, first: Sifted, thumbs: Sequence[Claim]) -> dict[str, int]:
    """Events that became no row, by reason: those of the harvest, and thumbs against the majority on their draft."""
    heard = {event for own in thumbs for event in own.events}
    unheard = sum(own.origin == "thumb" and own.events[-1] not in heard for own in first.passed)
    textless = sum(own.origin == "takeover" and not own.is_pair for own in first.passed)
    more = {"thumb_outvoted": unheard, "takeover_without_text": textless}
    return dict(reaped.left_out) | {reason: count for reason, count in more.items() if count > 0}


def _counts(found: Gathered) -> dict[str, Any]:
    given = [*found.judgments, *found.thumbs]
    return {
        "rows": {"judgments": len(found.judgments), "thumbs": len(found.thumbs), "held": len(found.held)},
        "origins": dict(sorted(Counter(own.origin for own in given).items())),
        "held": dict(sorted(Counter(own.reason for own in found.held).items())),
        "left_out": dict(sorted(found.left_out.items())),
        "actors_held": _actors_held(found),
        "released": sorted(found.released),
    }


def _actors_held(found: Gathered) -> list[dict[str, Any]]:
    """Actors of whom something was held back, most first: how much by which rule, of how much, and in what words."""
    passed = Counter(own.actor for own in (*found.judgments, *found.thumbs) if own.origin not in ("sent", "thumbs"))
    held: dict[str, list[Held]] = defaultdict(list)
    for one in found.held:
        if one.claim.actor is not None:
            held[one.claim.actor].append(one)
    return [
        {
            "actor": actor,
            "held": dict(sorted(Counter(one.reason for one in own).items())),
            "of": len(own) + passed[actor],
            "words": sorted({one.detail for one in own if one.reason in ("trigger_phrase", "burst")}),
        }
        for actor, own in sorted(held.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def _erased(store: Store, tenant: str) -> frozenset[str]:
    """The ids of a tenant's events whose text was erased."""
    erasures = [one.content for one in store.records(ERASURE)]
    return frozenset(name for own in erasures if own["tenant"] == tenant for name in own["ids"])


def _changed(
    record: Mapping[str, Any],
    before: Before | None,
    erased: frozenset[str],
    rows: Mapping[Path, Sequence[Row]],
) -> dict[str, Any]:
    """What differs from the collection that lay there: its hash, rows added and removed, and rows that were erased.

    `erased` goes on from record to record, so that data made from any earlier collection can be checked.
    """
    if before is None:
        return {"previous": None, "added": None, "removed": [], "erased": {}}
    old = before.record
    names = {row["id"] for own in rows.values() for row in own}
    gone = {name: sorted(erased.intersection(events)) for name, events in before.events.items() if name not in names}
    erased_rows = {**old["erased"], **{name: events for name, events in gone.items() if events}}
    if old["hash"] == record["hash"] and not gone:
        return {name: old[name] for name in ("previous", "added", "removed", "erased")}
    added = len(names - before.events.keys())
    return {
        "previous": old["hash"],
        "added": added,
        "removed": sorted(gone),
        "erased": dict(sorted(erased_rows.items())),
    }


def _nothing(order: Order, events: int, left_out: Mapping[str, int]) -> str:
    if not events:
        return "the store holds no event; send some, or import a log with `evenhand monitor import`."
    reasons = ", ".join(f"{reason} {count}" for reason, count in left_out.items()) or "no edit, takeover or thumb"
    return (
        f"of {events} events none of tenant {order.tenant} says which reply is better ({reasons}); "
        "drafts must carry `prompt`, the conversation before them."
    )
