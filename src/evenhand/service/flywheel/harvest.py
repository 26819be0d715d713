"""From stored events to claims: what was edited, taken over, and judged by thumbs; what says nothing is counted."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from evenhand.data.contest import contest
from evenhand.data.conversation import prompt_of
from evenhand.data.facts import Tell
from evenhand.data.fields import spoken_text
from evenhand.data.reasons import Unusable
from evenhand.service.event import Event, Kind
from evenhand.service.flywheel.claim import Claim
from evenhand.service.store import Store, StoredEvent

_PAGE = 1000

Drafts = Mapping[str, StoredEvent]


class SilentEvent(Exception):
    """An event of which no claim can be made, for a reason of its own rather than one of its texts."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Scope:
    """Which events are looked at: a tenant's up to the number `last` that happened at `since_ms` or later.

    What is appended meanwhile is for another time. `tell` hears of progress.
    """

    tenant: str
    since_ms: int
    last: int
    tell: Tell


@dataclass(frozen=True, slots=True)
class Harvest:
    """The claims in the order of their events; the ids of those whose event shows another text than its draft does.

    `left_out` counts events that make no claim, by reason: `erased`, `no_prompt`, or one for which a row of data would
    be refused, such as `identical_answers`; `thumb_withdrawn` where an actor judged the same reply again.
    """

    claims: tuple[Claim, ...]
    odd: frozenset[str]
    left_out: Mapping[str, int]


def pages(store: Store, scope: Scope, kinds: tuple[Kind, ...]) -> Iterator[tuple[list[StoredEvent], Drafts]]:
    """All events of these kinds in the order in which they were acknowledged, a page at a time with its drafts."""
    after = 0
    while page := [own for own in store.events(scope.tenant, kinds, after, _PAGE) if own.seq <= scope.last]:
        after = page[-1].seq
        recent = [own for own in page if own.at_ms >= scope.since_ms]
        drafts = store.drafts(scope.tenant, [own.event.draft for own in recent if own.event is not None])
        yield recent, {name: own for name, own in drafts.items() if own.seq <= scope.last}
        scope.tell(f"reading {kinds[0]} events", after, scope.last)


def harvest(store: Store, scope: Scope) -> Harvest:
    """The claims of a tenant's edits, takeovers and thumbs."""
    left_out: Counter[str] = Counter()
    claims: dict[tuple[str, ...], Claim] = {}
    odd: set[str] = set()
    for page, drafts in pages(store, scope, ("edit", "takeover", "thumb")):
        for stored in page:
            try:
                claim, fits = _claim(stored, drafts)
            except (SilentEvent, Unusable) as problem:
                left_out[problem.reason] += 1
                continue
            if not fits:
                odd.add(claim.id)
            # The last thumb of an actor on a reply is the one that counts.
            key = (claim.draft, claim.actor) if claim.origin == "thumb" and claim.actor else (claim.id,)
            left_out["thumb_withdrawn"] += claims.pop(key, None) is not None
            claims[key] = claim
    counted = {reason: count for reason, count in sorted(left_out.items()) if count}
    return Harvest(tuple(claims.values()), frozenset(odd), counted)


def _claim(stored: StoredEvent, drafts: Drafts) -> tuple[Claim, bool]:
    """What an event says, and whether the text that it shows is its draft's; SilentEvent or Unusable where there is none."""
    event = stored.event
    if event is None:
        raise SilentEvent("erased")
    found = drafts.get(event.draft)
    draft = found.event if found else None
    plain = _without_sides(stored, event, found)
    shown = spoken_text(event.text or (draft.text if draft else None), "text")
    fits = draft is None or event.text is None or event.text == draft.text
    match event.kind:
        case "thumb":
            return (replace(plain, won=shown) if event.up else replace(plain, lost=shown)), fits
        case "takeover" if event.sent is None:
            return replace(plain, lost=shown), fits
        case _:
            sent = spoken_text(event.sent, "sent")
            contest(sent, shown, "a")
            return replace(plain, won=sent, lost=shown), fits


def _without_sides(stored: StoredEvent, event: Event, found: StoredEvent | None) -> Claim:
    draft = found.event if found else None
    prompt = event.prompt or (draft.prompt if draft else ())
    if not prompt:
        raise SilentEvent("no_prompt")
    first = (draft.id,) if draft else ()
    assert event.kind in ("edit", "takeover", "thumb")
    return Claim(
        tenant=stored.tenant,
        origin=event.kind,
        prompt=prompt_of([turn.json() for turn in prompt], "prompt"),
        won="",
        lost="",
        actor=event.actor,
        at_ms=stored.at_ms,
        model=stored.model,
        category=stored.category,
        draft=event.draft,
        events=(*first, stored.id),
    )
