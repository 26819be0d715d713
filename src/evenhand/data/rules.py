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

from evenhand.data.agreement import shared_ratings
from evenhand.data.bias import BiasRule, Naming, annotators_at_odds, longer_won
from evenhand.data.category import category_of
from evenhand.data.consensus import likely_labels
from evenhand.data.facts import Facts
from evenhand.data.items import FIRST_WON, SECOND_WON, TIED, Ballot, Identity, prompt_text
from evenhand.data.schema import Judgment, PreferencePair, to_pair
from evenhand.data.twins import Items, plainness, twin_groups, word_counts
from evenhand.errors import DataError

Dropped = dict[int, str]
Encode = Callable[[str], Sequence[int]]

_ITEMS_COUNTED = 20_000


@dataclass(frozen=True, slots=True)
class CurationRules:
    """Which rules run, in what order, and with what limits; a limit of None drops nothing.

    `order` names rules of STEPS; those left out do not run. `tie` and `contradiction` always do, since a pair needs
    one winner. `near_duplicates` drops items with the wording of another one; what differs by a number stays.
    `annotators_at_odds` says when an annotator's judgments are dropped, None to keep all. `majority` keeps what most
    annotators of an item agree on, or with `dawid_skene` what those who are more reliable say; without it, all
    judgments of an item on which they differ are contradictions. `ties_outvote` drops an item that more annotators
    called a tie than preferred its winner. `contradictions` drops circles of preferences. `only_categories` and
    `without_categories` choose by the given category, else by that of `category_of`. `annotator_cap` is the most
    judgments kept of one annotator. `max_length_ratio` is of the longer answer to the shorter, in characters.
    `balance_length` drops items until the longer answer wins as often as the shorter. `max_tokens` bounds prompt and
    longer answer, as an encoder counts them. `families` is the similarity from which two prompts belong to one family.
    """

    exact_duplicates: bool = True
    near_duplicates: bool = True
    annotators_at_odds: BiasRule | None = field(default_factory=BiasRule)
    ties_outvote: bool = True
    majority: bool = True
    dawid_skene: bool = False
    contradictions: bool = True
    max_prompt_characters: int | None = None
    max_answer_characters: int | None = None
    max_tokens: int | None = None
    only_categories: tuple[str, ...] | None = None
    without_categories: tuple[str, ...] = ()
    annotator_cap: int | None = None
    max_length_ratio: float | None = None
    balance_length: bool = False
    families: float = 0.6
    order: tuple[str, ...] = (
        "category",
        "tie",
        "exact_duplicate",
        "near_duplicate",
        "annotator_at_odds",
        "annotator_cap",
        "majority",
        "contradiction",
        "length_ratio",
        "too_long",
        "length_balance",
    )

    def json(self) -> dict[str, Any]:
        """Every rule with its value."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Bench:
    """Judgments in a fixed order, with their keys and the rules; where two are alike a rule keeps the one before.

    `order` has the place among `facts` of each judgment here; `encode` gives a text's tokens, if they matter.
    """

    facts: Facts
    order: tuple[int, ...]
    ballots: tuple[Ballot, ...]
    same: tuple[Identity, ...]
    rules: CurationRules
    named: tuple[Naming, ...]
    as_read: bool
    encode: Encode | None = None

    def __len__(self) -> int:
        return len(self.order)

    def judgment(self, at: int) -> Judgment:
        """The judgment at a place, texts included."""
        return self.facts.judgments[self.order[at]]


def bench_of(facts: Facts, rules: CurationRules, as_read: bool = False, encode: Encode | None = None) -> Bench:
    """The judgments sorted by content, or by row, and the annotators that the rules would name."""

    def place(at: int) -> tuple[Any, ...]:
        ballot = facts.ballots[at]
        return (ballot.row, ballot.id) if as_read else _content_order(facts.same[at], ballot)

    order = tuple(sorted(range(len(facts.ballots)), key=place))
    ballots, same = tuple(facts.ballots[at] for at in order), tuple(facts.same[at] for at in order)
    rule = rules.annotators_at_odds
    named = annotators_at_odds(ballots, same, rule) if rule else ()
    return Bench(facts, order, ballots, same, rules, named, as_read, encode)


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
    tied = Counter(key.item for key in bench.same if key.label == TIED) if bench.rules.ties_outvote else Counter()
    for item, members in _by_item(bench, alive).items():
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
    ballots, same = [bench.ballots[at] for at in alive], [bench.same[at] for at in alive]
    likely = likely_labels(shared_ratings(bench.ballots, bench.same))
    dropped: Dropped = {}
    for at, ballot, key in zip(alive, ballots, same):
        if (shares := likely.get(key.item)) is not None and shares[key.label] < max(shares):
            dropped[at] = f"{ballot.verdict} has the probability {shares[key.label]:.2f} by all annotators' records"
    return dropped


def contradictions(bench: Bench, alive: Sequence[int]) -> Dropped:
    """Items on which both answers still have votes, and circles of preferences such as A over B over C over A."""
    dropped: Dropped = {}
    for members in _by_item(bench, alive).values():
        votes = Counter(bench.same[at].label for at in members)
        if votes[FIRST_WON] and votes[SECOND_WON]:
            dropped |= dict.fromkeys(members, f"{votes[FIRST_WON]} to {votes[SECOND_WON]} on the same two answers")
    if not bench.rules.contradictions:
        return dropped
    rest = [at for at in alive if at not in dropped]
    return dropped | dict.fromkeys(_on_circles(bench, rest), "on a circle of preferences among answers to one prompt")


def too_long(bench: Bench, alive: Sequence[int]) -> Dropped:
    """Judgments whose prompt or answer has more characters, or tokens together, than the rules allow."""
    dropped: Dropped = {}
    rules = bench.rules
    for at in alive:
        asked, *told = bench.facts.measures.characters_NT[bench.order[at]].tolist()
        if rules.max_prompt_characters is not None and asked > rules.max_prompt_characters:
            dropped[at] = f"the prompt has {asked} characters"
        elif rules.max_answer_characters is not None and max(told) > rules.max_answer_characters:
            dropped[at] = f"an answer has {max(told)} characters"
        elif rules.max_tokens is not None and (tokens := _tokens(bench, at)) > rules.max_tokens:
            dropped[at] = f"prompt and longer answer have {tokens} tokens"
    return dropped


def _tokens(bench: Bench, at: int) -> int:
    if bench.encode is None:
        raise DataError("the rule `too_long` has a limit in tokens and no tokenizer counts them; name one.")
    return tokens_of(bench.judgment(at), bench.encode)


def tokens_of(own: Judgment, encode: Encode) -> int:
    """Tokens of the prompt's turns and of the longer answer, without what a template adds."""
    asked = sum(len(encode(message.content)) for message in own.prompt)
    return asked + max(len(encode(own.answer_a)), len(encode(own.answer_b)))


def by_category(bench: Bench, alive: Sequence[int]) -> Dropped:
    """Judgments outside the wanted categories, or inside the unwanted ones."""
    only, without = bench.rules.only_categories, bench.rules.without_categories
    dropped: Dropped = {}
    if only is None and not without:
        return dropped
    for at in alive:
        name = bench.ballots[at].category or category_of(bench.judgment(at).prompt)
        if name in without or (only is not None and name not in only):
            dropped[at] = f"the category is {name}"
    return dropped


def over_the_cap(bench: Bench, alive: Sequence[int]) -> Dropped:
    """Judgments of an annotator beyond the cap; which ones stay is decided by their content's hash."""
    most, given = bench.rules.annotator_cap, Counter[str]()
    dropped: Dropped = {}
    for at in sorted(alive, key=lambda at: (bench.same[at].item, at)) if most is not None else ():
        if (who := bench.ballots[at].annotator) is not None and most is not None:
            given[who] += 1
            if given[who] > most:
                dropped[at] = f"{who} gave more than {most} judgments"
    return dropped


def unlike_in_length(bench: Bench, alive: Sequence[int]) -> Dropped:
    """Judgments between answers so unlike in length that length alone may have decided them."""
    most = bench.rules.max_length_ratio
    dropped: Dropped = {}
    for at in alive if most is not None else ():
        short, long = sorted((bench.ballots[at].length_a, bench.ballots[at].length_b))
        if most is not None and long > most * short:
            dropped[at] = f"the answers have {short} and {long} characters"
    return dropped


def out_of_balance(bench: Bench, alive: Sequence[int]) -> Dropped:
    """Items of the more frequent kind, longer answer won or shorter won, until both are as many, in each category.

    Which ones go is decided by their content's hash, which is as good as by chance.
    """
    dropped: Dropped = {}
    if not bench.rules.balance_length:
        return dropped
    sides: dict[str, dict[bool, list[list[int]]]] = defaultdict(lambda: {True: [], False: []})
    for _, members in sorted(_by_item(bench, alive).items()):
        ballot = bench.ballots[members[0]]
        if (longer := longer_won(ballot)) is not None:
            sides[ballot.category or category_of(bench.judgment(members[0]).prompt)][longer].append(members)
    for both in sides.values():
        kept = min(len(both[True]), len(both[False]))
        for longer, items in both.items():
            words = f"one of {len(items)} where the {'longer' if longer else 'shorter'} answer won, {kept} kept"
            dropped |= {at: words for members in items[kept:] for at in members}
    return dropped


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


def _content_order(key: Identity, ballot: Ballot) -> tuple[bytes, int, str, int, str]:
    """Row and id only order judgments that say the same, so that the pairs depend on content alone."""
    return key.item, key.label, ballot.annotator or "", ballot.row, ballot.id


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
