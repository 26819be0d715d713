"""The rules that decide which judgments become pairs, in their order; each finds the judgments it would drop.

A rule sees only the judgments that the rules before it left, by their place on a `Bench`, and gives back the places
that it drops, each with the reason in words. The audit calls the same functions to count.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from evenhand.data.agreement import shared_ratings
from evenhand.data.bench import Bench, Dropped, by_item, pair_of
from evenhand.data.consensus import likely_labels
from evenhand.data.items import FIRST_WON, SECOND_WON, TIED, prompt_text
from evenhand.data.limits import by_category, out_of_balance, over_the_cap, too_long, unlike_in_length
from evenhand.data.twins import Items, plainness, twin_groups, word_counts

_ITEMS_COUNTED = 20_000


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
        key = (bench.same[at].item, bench.same[at].label, bench.ballots[at].annotator)
        if (kept := first.setdefault(key, at)) != at:
            dropped[at] = f"the same as {bench.ballots[kept].id}"
    return dropped


def near_duplicates(bench: Bench, alive: Sequence[int]) -> Dropped:
    """Items with the wording of another item in prompt, winner and loser.

    The item with most judgments is kept, then the plainest (see `plainness`), or the one read first if the bench is
    in the order of reading. An item whose annotators are split evenly has no winner to compare and is left alone.
    """
    dropped: Dropped = {}
    if not bench.rules.near_duplicates:
        return dropped
    decided = list(_decided(bench, alive).values())
    items = _items(bench, [members[0] for members in decided])
    groups: dict[int, list[int]] = defaultdict(list)
    for place, group in enumerate(twin_groups(items)):
        groups[group].append(place)
    twins = [places for places in groups.values() if len(places) > 1]
    told = _plainness(bench, items, twins)

    def rank(place: int) -> tuple[Any, ...]:
        members = decided[place]
        return -len(members), *told.get(place, ()), min(members)

    for places in twins:
        keeper = min(places, key=rank)
        words = f"nearly the same as {bench.ballots[decided[keeper][0]].id}"
        dropped |= {at: words for place in places if place != keeper for at in decided[place]}
    return dropped


def annotators_named(bench: Bench, alive: Sequence[int]) -> Dropped:
    """Judgments of annotators who were named as biased or at odds with the others."""
    habits: dict[str | None, str] = {}
    for naming in bench.named:
        habits.setdefault(naming.annotator, f"{naming.annotator} {_HABIT_WORDS[naming.habit]}")
    return {at: habits[who] for at in alive if (who := bench.ballots[at].annotator) in habits}


def outvoted(bench: Bench, alive: Sequence[int]) -> Dropped:
    """Judgments against the majority on their item, and items that more annotators called a tie than a win."""
    dropped: Dropped = {}
    if bench.rules.dawid_skene:
        return _against_the_reliable(bench, alive)
    tied = (
        Counter(bench.same[at].item for at in _ties_that_count(bench, alive)) if bench.rules.ties_outvote else Counter()
    )
    for item, members in by_item(bench, alive).items():
        votes = Counter(bench.same[at].label for at in members)
        split = min(votes[FIRST_WON], votes[SECOND_WON]) > 0
        if votes[FIRST_WON] == votes[SECOND_WON] or (split and not bench.rules.majority):
            continue
        winner = max(votes, key=lambda label: votes[label])
        beaten = members if tied[item] > votes[winner] else [at for at in members if bench.same[at].label != winner]
        told = f"{votes[winner]} for the winner, {len(members) - votes[winner]} against, {tied[item]} ties"
        dropped |= dict.fromkeys(beaten, told)
    return dropped


def _against_the_reliable(bench: Bench, alive: Sequence[int]) -> Dropped:
    """Judgments against what Dawid and Skene's model holds for likeliest, ties included in what it sees."""
    votes = sorted({*alive, *_ties_that_count(bench, alive)})
    likely = likely_labels(shared_ratings([bench.ballots[at] for at in votes], [bench.same[at] for at in votes]))
    dropped: Dropped = {}
    for at in alive:
        verdict, key = bench.ballots[at].verdict, bench.same[at]
        if (shares := likely.get(key.item)) is not None and shares[key.label] < max(shares):
            dropped[at] = f"{verdict} has the probability {shares[key.label]:.2f} by all annotators' records"
    return dropped


def _ties_that_count(bench: Bench, alive: Sequence[int]) -> list[int]:
    """The ties that the rules before the majority would have left, had the rule `tie` not set them aside.

    A tie on an item all of whose preferences are gone is gone with them.
    """
    left: Sequence[int] = range(len(bench))
    for name in takewhile(lambda name: name != "majority", bench.rules.order):
        if name == "tie":
            left = [at for at in left if bench.same[at].label == TIED]
        elif name in _OF_ONE_JUDGMENT:
            dropped = STEPS[name](bench, left)
            left = [at for at in left if at not in dropped]
    gone = {key.item for key in bench.same if key.label != TIED} - {bench.same[at].item for at in alive}
    return [at for at in left if bench.same[at].label == TIED and bench.same[at].item not in gone]


def contradictions(bench: Bench, alive: Sequence[int]) -> Dropped:
    """Items on which both answers still have votes, and circles of preferences such as A over B over C over A."""
    dropped: Dropped = {}
    for members in by_item(bench, alive).values():
        votes = Counter(bench.same[at].label for at in members)
        if votes[FIRST_WON] and votes[SECOND_WON]:
            dropped |= dict.fromkeys(members, f"{votes[FIRST_WON]} to {votes[SECOND_WON]} on the same two answers")
    if not bench.rules.contradictions:
        return dropped
    rest = [at for at in alive if at not in dropped]
    return dropped | dict.fromkeys(_on_circles(bench, rest), "on a circle of preferences among answers to one prompt")


STEPS: Mapping[str, Callable[[Bench, Sequence[int]], Dropped]] = {
    "category": by_category,
    "tie": ties,
    "exact_duplicate": exact_duplicates,
    "near_duplicate": near_duplicates,
    "annotator_at_odds": annotators_named,
    "annotator_cap": over_the_cap,
    "majority": outvoted,
    "contradiction": contradictions,
    "length_ratio": unlike_in_length,
    "too_long": too_long,
    "length_balance": out_of_balance,
}
RULE_NAMES = tuple(STEPS)
_OF_ONE_JUDGMENT = {"category", "exact_duplicate", "annotator_at_odds", "annotator_cap"}

_HABIT_WORDS = {
    "takes_longer": "takes the longer answer far more often than others do",
    "takes_first": "takes the answer shown first far more often than others do",
    "disagrees": "disagrees with the majority far more often than others do",
}


def _items(bench: Bench, places: Sequence[int]) -> Items:
    """The judgments at these places as prompt, winner and loser."""

    def texts(place: int) -> tuple[str, str, str]:
        pair = pair_of(bench.judgment(places[place]))
        return prompt_text(pair.prompt), pair.chosen, pair.rejected

    measures, rows = bench.facts.measures, np.array([bench.order[at] for at in places], np.int64)
    b_won = np.array([bench.ballots[at].verdict == "b" for at in places], bool)
    columns = np.where(b_won[:, None], [[0, 2, 1]], [[0, 1, 2]]) if places else np.zeros((0, 3), np.int64)
    plain_IT = np.take_along_axis(measures.plain_NT[rows], columns, axis=1)
    digits_IT = np.take_along_axis(measures.digits_NT[rows], columns, axis=1)
    return Items(plain_IT, digits_IT, measures.signatures_NH[rows], texts)


def _plainness(bench: Bench, items: Items, twins: Sequence[Sequence[int]]) -> dict[int, tuple[float, int, int]]:
    """For each twin how plain it is; nothing where the order of reading decides.

    Words are counted in the first 20,000 items, which on a bench sorted by content hash are a random sample.
    """
    if bench.as_read or not twins:
        return {}
    often = word_counts(items.texts(place) for place in range(min(len(items), _ITEMS_COUNTED)))
    total = 1 + often.total()
    return {place: plainness(items.texts(place), often, total) for places in twins for place in places}


def _decided(bench: Bench, alive: Sequence[int]) -> dict[bytes, list[int]]:
    """The items with a winner, each with its judgments, one that agrees with the majority first."""
    found: dict[bytes, list[int]] = {}
    for item, members in by_item(bench, alive).items():
        for_first = sum(bench.same[at].label == FIRST_WON for at in members)
        if 2 * for_first != len(members):
            winner = FIRST_WON if 2 * for_first > len(members) else SECOND_WON
            found[item] = sorted(members, key=lambda at: bench.same[at].label != winner)
    return found


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
