"""Claims that follow from others: thumbs settled by majority and paired, and replies sent where another was rejected."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import replace
from typing import Literal

from evenhand.data.contest import same_but_for_form
from evenhand.data.items import keys_of, prompt_text
from evenhand.data.similarity import near_groups
from evenhand.service.event import Event
from evenhand.service.flywheel.claim import Claim
from evenhand.service.flywheel.harvest import Scope, pages
from evenhand.service.store import Store, StoredEvent

ThumbPairs = Literal["same", "family", "none"]
_FAMILY = 0.6


def settled(thumbs: Sequence[Claim]) -> tuple[Claim, ...]:
    """One claim a draft: what most of its thumbs say, resting on those; none where as many point up as down."""
    found = []
    for members in _by_draft(thumbs):
        ups = [own for own in members if own.won]
        downs = [own for own in members if own.lost]
        if len(ups) != len(downs):
            found.append(_together(ups if len(ups) > len(downs) else downs))
    return tuple(found)


def rejections(thumbs: Iterable[Claim], claims: Iterable[Claim]) -> tuple[Claim, ...]:
    """One claim for each draft that was rejected without a better reply: by its thumbs as `settled`, or taken over."""
    textless = [own for own in claims if own.origin == "takeover" and not own.is_pair]
    return tuple(map(_together, _by_draft([*(own for own in thumbs if own.lost), *textless])))


def thumb_pairs(thumbs: Sequence[Claim], by: ThumbPairs) -> tuple[Claim, ...]:
    """Replies with a thumb up over replies with a thumb down, to the same prompt or to one of its family.

    Each reply stands in one pair. Of a family the prompt is that of the better reply, so such pairs are for teams whose
    tickets differ by names and numbers only.
    """
    if by == "none":
        return ()
    ups, downs = [own for own in thumbs if own.won], [own for own in thumbs if own.lost]
    key = _families([*ups, *downs]) if by == "family" else prompt_key
    waiting: dict[object, list[Claim]] = defaultdict(list)
    for own in downs:
        waiting[key(own)].append(own)
    pairs = []
    for own in ups:
        rivals = waiting[key(own)]
        at = next((at for at, rival in enumerate(rivals) if not same_but_for_form(own.won, rival.lost)), None)
        if at is not None:
            pairs.append(_over(own, rivals.pop(at), "thumbs"))
    return tuple(pairs)


def sent_pairs(store: Store, scope: Scope, rejected: Iterable[Claim], refused: Set[str]) -> tuple[Claim, ...]:
    """Replies that went out as drafted over replies to the same prompt that were rejected.

    Going out alone says nothing. `rejected` are the `rejections`; each is paired once, with the first other reply to
    its prompt that was sent and is not in `refused`, the drafts of which somebody said that they are bad.
    """
    waiting: dict[bytes, list[Claim]] = defaultdict(list)
    for own in rejected:
        waiting[prompt_key(own)].append(own)
    pairs = []
    for page, drafts in pages(store, scope, ("sent",)) if waiting else ():
        for stored in page:
            event = stored.event
            draft = drafts.get(event.draft) if event else None
            if event is None or draft is None or event.draft in refused:
                continue
            assert draft.event is not None
            rivals = waiting.get(_key(draft.event), [])
            at = next((at for at, own in enumerate(rivals) if _differs(draft.event, own)), None)
            if at is not None:
                pairs.append(_sent_over(stored, draft.event, rivals.pop(at)))
    return tuple(pairs)


def prompt_key(claim: Claim) -> bytes:
    """Equal for equal prompts."""
    return keys_of([(turn.role, turn.content) for turn in claim.prompt], "", "").parts[0]


def _key(draft: Event) -> bytes:
    return keys_of([(turn.role, turn.content) for turn in draft.prompt], "", "").parts[0]


def _differs(draft: Event, rejected: Claim) -> bool:
    return bool(draft.text and draft.text.strip()) and not same_but_for_form(draft.text or "", rejected.lost)


def _families(claims: Sequence[Claim]) -> Callable[[Claim], object]:
    names = near_groups([prompt_text(own.prompt) for own in claims], _FAMILY)
    by_id = {own.id: name for own, name in zip(claims, names)}
    return lambda own: by_id[own.id]


def _by_draft(claims: Iterable[Claim]) -> Iterable[list[Claim]]:
    found: dict[str, list[Claim]] = defaultdict(list)
    for own in claims:
        found[own.draft].append(own)
    return found.values()


def _together(claims: Sequence[Claim]) -> Claim:
    """Equal claims on one draft as one."""
    actors = {own.actor for own in claims}
    events = dict.fromkeys(name for own in claims for name in own.events)
    last = max(claims, key=lambda own: own.at_ms)
    return replace(last, actor=actors.pop() if len(actors) == 1 else None, events=tuple(events))


def _over(won: Claim, lost: Claim, origin: Literal["thumbs", "sent"]) -> Claim:
    """The pair of a reply that was liked and one that was not."""
    actor = won.actor if won.actor == lost.actor else None
    events = tuple(dict.fromkeys((*won.events, *lost.events)))
    at_ms = max(won.at_ms, lost.at_ms)
    return replace(won, origin=origin, lost=lost.lost, actor=actor, events=events, at_ms=at_ms)


def _sent_over(stored: StoredEvent, draft: Event, rejected: Claim) -> Claim:
    event = stored.event
    assert event is not None
    sent = replace(
        rejected,
        won=draft.text or "",
        lost="",
        actor=event.actor,
        at_ms=stored.at_ms,
        model=stored.model,
        category=stored.category,
        draft=draft.draft,
        events=(draft.id, stored.id),
    )
    return _over(sent, rejected, "sent")
