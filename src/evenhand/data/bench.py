"""What the rules of curation work on: judgments in a fixed order with their keys, and the rules that were chosen."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from evenhand.data.bias import BiasRule, Naming, annotators_at_odds
from evenhand.data.facts import Facts
from evenhand.data.items import Ballot, Identity
from evenhand.data.schema import Judgment, PreferencePair, to_pair

Dropped = dict[int, str]
Encode = Callable[[str], Sequence[int]]


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


def pair_of(judgment: Judgment) -> PreferencePair:
    """The pair of a judgment that is known to be no tie."""
    pair = to_pair(judgment)
    assert pair is not None, "a tie survived"
    return pair


def by_item(bench: Bench, alive: Sequence[int]) -> Mapping[bytes, list[int]]:
    """The places of each item's judgments."""
    members: dict[bytes, list[int]] = defaultdict(list)
    for at in alive:
        members[bench.same[at].item].append(at)
    return members


def _content_order(key: Identity, ballot: Ballot) -> tuple[bytes, int, str, int, str]:
    """Row and id only order judgments that say the same, so that the pairs depend on content alone."""
    return key.item, key.label, ballot.annotator or "", ballot.row, ballot.id
