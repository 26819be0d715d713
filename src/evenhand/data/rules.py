"""The rules that decide which judgments become pairs, in their order; each finds the judgments it would drop.

A rule sees only the judgments that the rules before it left, by their place on a `Bench`, and gives back the places
that it drops, each with the reason in words. The audit calls the same functions to count.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from evenhand.data.bias import BiasRule, Naming, annotators_at_odds
from evenhand.data.items import FIRST_WON, SECOND_WON, TIED, Identity, identities, prompt_text
from evenhand.data.schema import Judgment, PreferencePair, to_pair
from evenhand.data.similarity import near_groups

Dropped = dict[int, str]


@dataclass(frozen=True, slots=True)
class CurationRules:
    """Which rules run; their order is fixed: STEPS. Ties are always dropped, since a tie has no winner.

    `near_duplicates` is the Jaccard similarity of six-byte shingles from which two texts count as one, None to keep
    near duplicates. `annotators_at_odds` says when an annotator's judgments are dropped, None to keep all.
    `ties_outvote` drops an item that more annotators called a tie than preferred its winner. `contradictions` drops
    circles of preferences; items without a majority have no winner and are always dropped. `families` is the
    similarity from which two prompts belong to one family.
    """

    exact_duplicates: bool = True
    near_duplicates: float | None = 0.9
    annotators_at_odds: BiasRule | None = field(default_factory=BiasRule)
    ties_outvote: bool = True
    contradictions: bool = True
    max_prompt_characters: int | None = None
    max_answer_characters: int | None = None
    families: float = 0.6

    def json(self) -> dict[str, Any]:
        """Every rule with its value."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Bench:
    """All judgments in an order that depends on their content only, with their keys and the rules to apply."""

    judgments: tuple[Judgment, ...]
    same: tuple[Identity, ...]
    rules: CurationRules
    named: tuple[Naming, ...]


def bench_of(judgments: Sequence[Judgment], rules: CurationRules) -> Bench:
    """The judgments sorted by content, and the annotators that the rules would name."""
    keyed = sorted(
        zip(identities(judgments), judgments, strict=True),
        key=lambda both: _content_order(*both),
    )
    same, ordered = tuple(key for key, _ in keyed), tuple(judgment for _, judgment in keyed)
    rule = rules.annotators_at_odds
    return Bench(ordered, same, rules, annotators_at_odds(ordered, same, rule) if rule else ())


def ties(bench: Bench, alive: Sequence[int]) -> Dropped:
    """Judgments that prefer neither answer."""
    return {at: "neither answer was preferred" for at in alive if bench.same[at].label == TIED}


def exact_duplicates(bench: Bench, alive: Sequence[int]) -> Dropped:
    """Repeats of a prompt, two answers and a verdict by the same annotator; the first is kept."""
    dropped: Dropped = {}
    if not bench.rules.exact_duplicates:
        return dropped
    first: dict[tuple[bytes, int, str | None], int] = {}
    for at in alive:
        key = (bench.same[at].item, bench.same[at].label, bench.judgments[at].annotator)
        if (kept := first.setdefault(key, at)) != at:
            dropped[at] = f"the same as {bench.judgments[kept].id}"
    return dropped


def near_duplicates(bench: Bench, alive: Sequence[int]) -> Dropped:
    """Items whose prompt, winner and loser are nearly those of another item; the item with most judgments is kept.

    An item whose annotators are split evenly has no winner to compare and is left to the rules that follow.
    """
    dropped: Dropped = {}
    if (threshold := bench.rules.near_duplicates) is None:
        return dropped
    decided = _decided(bench, alive)
    alike: dict[tuple[str, str, str], list[bytes]] = defaultdict(list)
    for key, item in zip(_near_keys(bench, decided, threshold), decided):
        alike[key].append(item)
    for items in alike.values():
        keeper = min(items, key=lambda item: (-len(decided[item]), item))
        told = f"nearly the same as {bench.judgments[decided[keeper][0]].id}"
        dropped |= {at: told for item in items if item != keeper for at in decided[item]}
    return dropped


def annotators_named(bench: Bench, alive: Sequence[int]) -> Dropped:
    """Judgments of annotators who were named as biased or at odds with the others."""
    habits: dict[str | None, str] = {}
    for naming in bench.named:
        habits.setdefault(naming.annotator, f"{naming.annotator} {_HABIT_WORDS[naming.habit]}")
    return {at: habits[who] for at in alive if (who := bench.judgments[at].annotator) in habits}


def outvoted(bench: Bench, alive: Sequence[int]) -> Dropped:
    """Judgments against the majority on their item, and items that more annotators called a tie than a win."""
    dropped: Dropped = {}
    tied = Counter(key.item for key in bench.same if key.label == TIED) if bench.rules.ties_outvote else Counter()
    for item, members in _by_item(bench, alive).items():
        votes = Counter(bench.same[at].label for at in members)
        if votes[FIRST_WON] == votes[SECOND_WON]:
            continue
        winner = max(votes, key=lambda label: votes[label])
        beaten = members if tied[item] > votes[winner] else [at for at in members if bench.same[at].label != winner]
        told = f"{votes[winner]} for the winner, {len(members) - votes[winner]} against, {tied[item]} ties"
        dropped |= dict.fromkeys(beaten, told)
    return dropped


def contradictions(bench: Bench, alive: Sequence[int]) -> Dropped:
    """Items without a majority, and all judgments on a circle of preferences such as A over B over C over A."""
    dropped: Dropped = {}
    for members in _by_item(bench, alive).values():
        votes = Counter(bench.same[at].label for at in members)
        if votes[FIRST_WON] == votes[SECOND_WON]:
            dropped |= dict.fromkeys(members, f"{votes[FIRST_WON]} to {votes[SECOND_WON]} on the same two answers")
    if not bench.rules.contradictions:
        return dropped
    rest = [at for at in alive if at not in dropped]
    return dropped | dict.fromkeys(_on_circles(bench, rest), "on a circle of preferences among answers to one prompt")


def too_long(bench: Bench, alive: Sequence[int]) -> Dropped:
    """Judgments whose prompt or answer has more characters than the rules allow."""
    dropped: Dropped = {}
    for at in alive:
        judgment = bench.judgments[at]
        asked = sum(len(message.content) for message in judgment.prompt)
        told = max(len(judgment.answer_a), len(judgment.answer_b))
        if bench.rules.max_prompt_characters is not None and asked > bench.rules.max_prompt_characters:
            dropped[at] = f"the prompt has {asked} characters"
        elif bench.rules.max_answer_characters is not None and told > bench.rules.max_answer_characters:
            dropped[at] = f"an answer has {told} characters"
    return dropped


STEPS: tuple[tuple[str, Callable[[Bench, Sequence[int]], Dropped]], ...] = (
    ("tie", ties),
    ("exact_duplicate", exact_duplicates),
    ("near_duplicate", near_duplicates),
    ("annotator_at_odds", annotators_named),
    ("majority", outvoted),
    ("contradiction", contradictions),
    ("too_long", too_long),
)
RULE_NAMES = tuple(name for name, _ in STEPS)

_HABIT_WORDS = {
    "takes_longer": "takes the longer answer far more often than others do",
    "takes_first": "takes the answer shown first far more often than others do",
    "disagrees": "disagrees with the majority far more often than others do",
}


def pair_of(judgment: Judgment) -> PreferencePair:
    """The pair of a judgment that is known to be no tie."""
    pair = to_pair(judgment)
    assert pair is not None, "a tie survived"
    return pair


def _content_order(key: Identity, judgment: Judgment) -> tuple[bytes, int, str, str, str, int]:
    return key.item, key.label, judgment.annotator or "", judgment.time or "", judgment.id, judgment.row


def _by_item(bench: Bench, alive: Sequence[int]) -> Mapping[bytes, list[int]]:
    members: dict[bytes, list[int]] = defaultdict(list)
    for at in alive:
        members[bench.same[at].item].append(at)
    return members


def _decided(bench: Bench, alive: Sequence[int]) -> dict[bytes, list[int]]:
    """The items with a winner, each with its judgments, one that agrees with the majority first."""
    found: dict[bytes, list[int]] = {}
    for item, members in _by_item(bench, alive).items():
        for_first = sum(bench.same[at].label == FIRST_WON for at in members)
        if 2 * for_first != len(members):
            winner = FIRST_WON if 2 * for_first > len(members) else SECOND_WON
            found[item] = sorted(members, key=lambda at: bench.same[at].label != winner)
    return found


def _near_keys(bench: Bench, decided: Mapping[bytes, list[int]], threshold: float) -> list[tuple[str, str, str]]:
    """For each item the groups of its prompt, winner and loser, the three compared as texts of their own kind."""
    pairs = [pair_of(bench.judgments[members[0]]) for members in decided.values()]
    prompts = near_groups([prompt_text(pair.prompt) for pair in pairs], threshold)
    answers = near_groups([pair.chosen for pair in pairs] + [pair.rejected for pair in pairs], threshold)
    keys = zip(prompts, answers[: len(pairs)], answers[len(pairs) :])
    return [
        key if key[1] != key[2] else (key[0], bench.same[members[0]].winner.hex(), bench.same[members[0]].loser.hex())
        for key, members in zip(keys, decided.values())
    ]


def _on_circles(bench: Bench, alive: Sequence[int]) -> list[int]:
    """The judgments between answers that can each be reached from the other by going from winner to loser."""
    number: dict[tuple[bytes, bytes], int] = {}
    winners = [number.setdefault((bench.same[at].prompt, bench.same[at].winner), len(number)) for at in alive]
    losers = [number.setdefault((bench.same[at].prompt, bench.same[at].loser), len(number)) for at in alive]
    if not number:
        return []
    edges = coo_array((np.ones(len(alive), np.int8), (winners, losers)), shape=(len(number), len(number)))
    _, part = connected_components(edges, directed=True, connection="strong")
    return [at for at, winner, loser in zip(alive, winners, losers) if part[winner] == part[loser]]
