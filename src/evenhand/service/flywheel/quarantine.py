"""What stands between production and training: claims are held back that repeat, flood, or plant a phrase.

Thumbs and edits come from whoever holds a key or a button: 1 to 5 % of planted pairs steer a model (Best-of-Venom,
arXiv 2404.05530). Each rule holds back; a person may release what it held.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Any, Literal

from evenhand.data.bench import CurationRules, bench_of
from evenhand.data.category import category_of
from evenhand.data.facts import facts_of
from evenhand.data.items import prompt_text
from evenhand.data.rules import exact_duplicates, near_duplicates
from evenhand.data.schema import Judgment
from evenhand.data.triggers import Stance, TriggerRule, trigger_phrases
from evenhand.data.wording import words_of
from evenhand.service.flywheel.claim import Claim

Reason = Literal["other_text", "trigger_phrase", "burst", "near_duplicate", "actor_cap"]
# An actor must have this many times the share of a phrase that the actor has of the categories in which it stands.
_MORE_THAN_USUAL = 2.0
_THUMBS = ("thumb", "thumbs")

Places = dict[int, tuple[Reason, str]]
Found = Iterator[tuple[int, tuple[Reason, str]]]


@dataclass(frozen=True, slots=True)
class QuarantineRules:
    """The limits. `burst_claims` by one actor within `burst_seconds` are a burst, 0 for no such check.

    An actor keeps `cap_times` as many claims as the median actor has, and `cap_floor` at least, thumbs by themselves. `allowed` are phrases
    that a person has seen and found harmless, such as an agent's signature.
    """

    burst_claims: int = 30
    burst_seconds: int = 600
    cap_times: float = 3.0
    cap_floor: int = 100
    allowed: tuple[str, ...] = ()
    trigger: TriggerRule = field(default_factory=TriggerRule)

    def json(self) -> dict[str, Any]:
        """The rules as a record states them."""
        names = ("burst_claims", "burst_seconds", "cap_times", "cap_floor")
        return {name: getattr(self, name) for name in names} | {"allowed": list(self.allowed)}


@dataclass(frozen=True, slots=True)
class Held:
    """A claim that is held back, by which rule, and why in words."""

    claim: Claim
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Sifted:
    """What passed, in the order given, and what was held back."""

    passed: tuple[Claim, ...]
    held: tuple[Held, ...]


def sift(
    claims: Sequence[Claim], rules: QuarantineRules, odd: Collection[str] = (), released: Collection[str] = ()
) -> Sifted:
    """Hold claims back by the rules in their order; the ids in `released` pass whatever a rule says.

    `odd` are the ids of claims whose event shows another text than its draft.
    """
    places: Places = {
        at: ("other_text", "the event shows another reply than its draft") for at, c in enumerate(claims) if c.id in odd
    }
    free = {at for at, own in enumerate(claims) if own.id in released}
    for rule in (_planted, _bursting, _repeating, _over_cap):
        alive = [at for at in range(len(claims)) if at in free or at not in places]
        for at, found in rule(claims, alive, rules):
            places.setdefault(at, found)
    kept = tuple(own for at, own in enumerate(claims) if at in free or at not in places)
    held = tuple(Held(own, *places[at]) for at, own in enumerate(claims) if at in places and at not in free)
    return Sifted(kept, held)


def _planted(claims: Sequence[Claim], alive: Sequence[int], rules: QuarantineRules) -> Found:
    """An actor's claims with a phrase that this actor brings, and that decides what the actor says.

    A phrase that everybody adds or removes is what people prefer, and one that comes with the tickets an actor does is
    no choice of the actor's: neither is a reason to hold anything.
    """
    stances = [Stance(claims[at].won, claims[at].lost, claims[at].actor) for at in alive]
    allowed = [" ".join(words_of(phrase)) for phrase in rules.allowed]
    given, by_hand = _by_category([claims[at] for at in alive])
    for trigger in trigger_phrases(stances, rules.trigger):
        if trigger.hand is None or any(f" {trigger.phrase} " in f" {phrase} " for phrase in allowed):
            continue
        own = [alive[place] for place in trigger.places]
        usual = mean(by_hand[trigger.hand, name] / given[name] for name in (category_named(claims[at]) for at in own))
        if (trigger.hand_share.value or 0.0) >= _MORE_THAN_USUAL * usual:
            yield from ((at, ("trigger_phrase", trigger.words())) for at in own)


def _by_category(claims: Sequence[Claim]) -> tuple[Counter[str], Counter[tuple[str | None, str]]]:
    """How many claims each category has, and each actor in it."""
    categories = [category_named(own) for own in claims]
    return Counter(categories), Counter((own.actor, name) for own, name in zip(claims, categories))


def category_named(claim: Claim) -> str:
    """The given category, or the one that the prompt's words suggest."""
    return claim.category or category_of(claim.prompt)


def _bursting(claims: Sequence[Claim], alive: Sequence[int], rules: QuarantineRules) -> Found:
    """All claims of an actor within a window that holds more than a person could mean."""
    if not rules.burst_claims:
        return
    by_actor: dict[str, list[int]] = defaultdict(list)
    for at in alive:
        if (who := claims[at].actor) is not None:
            by_actor[who].append(at)
    for who, places in by_actor.items():
        places.sort(key=lambda at: claims[at].at_ms)
        words = f"{who} said {rules.burst_claims} things or more within {rules.burst_seconds} seconds"
        done = 0
        for start in range(len(places) - rules.burst_claims + 1):
            stop = start + rules.burst_claims
            if claims[places[stop - 1]].at_ms - claims[places[start]].at_ms <= 1000 * rules.burst_seconds:
                yield from ((at, ("burst", words)) for at in places[max(done, start) : stop])
                done = stop


def _repeating(claims: Sequence[Claim], alive: Sequence[int], rules: QuarantineRules) -> Found:
    """Pairs with the wording of an earlier one; thumbs of one actor on replies and prompts of equal wording."""
    del rules
    pairs = [at for at in alive if claims[at].is_pair]
    if pairs:
        bench = bench_of(facts_of([_judgment(claims[at], row) for row, at in enumerate(pairs)]), CurationRules(), True)
        exact = exact_duplicates(bench, range(len(bench)))
        near = near_duplicates(bench, [place for place in range(len(bench)) if place not in exact])
        for place, words in (exact | near).items():
            yield pairs[bench.order[place]], ("near_duplicate", words)
    seen: dict[tuple[object, ...], str] = {}
    for at in alive:
        own = claims[at]
        if own.is_pair:
            continue
        key = (own.actor, bool(own.won), tuple(words_of(own.won or own.lost)), tuple(words_of(prompt_text(own.prompt))))
        if (first := seen.setdefault(key, own.id)) != own.id and own.actor is not None:
            yield at, ("near_duplicate", f"the same thumb as {first}")


def _over_cap(claims: Sequence[Claim], alive: Sequence[int], rules: QuarantineRules) -> Found:
    """Claims of an actor beyond the cap; which ones stay is decided by their ids, which are hashes.

    Thumbs and what agents do are counted apart: a customer has one or two, an agent hundreds.
    """
    sorts = {at: (who, claims[at].origin in _THUMBS) for at in alive if (who := claims[at].actor) is not None}
    counts = Counter(sorts.values())
    most = {
        thumbs: max(rules.cap_floor, int(rules.cap_times * median(own)))
        for thumbs in (True, False)
        if (own := [count for (_, of_thumbs), count in counts.items() if of_thumbs == thumbs])
    }
    given: Counter[tuple[str, bool]] = Counter()
    for at in sorted(sorts, key=lambda at: claims[at].id):
        who, thumbs = sorts[at]
        given[who, thumbs] += 1
        if given[who, thumbs] > most[thumbs]:
            yield at, ("actor_cap", f"{who} has {counts[who, thumbs]} and the cap is {most[thumbs]}")


def _judgment(claim: Claim, row: int) -> Judgment:
    return Judgment(claim.id, row, str(row), claim.prompt, claim.won, claim.lost, "a", claim.actor)
