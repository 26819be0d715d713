"""From judgments to preference pairs by named rules in a fixed order, with a ledger row for every judgment."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from evenhand.data.agreement import shared_ratings
from evenhand.data.bench import Bench, CurationRules, Encode, bench_of, pair_of
from evenhand.data.bias import Naming
from evenhand.data.category import category_of
from evenhand.data.consensus import likely_labels
from evenhand.data.facts import Facts, facts_of
from evenhand.data.items import Identity, prompt_text
from evenhand.data.rules import STEPS
from evenhand.data.schema import Judgment, PreferencePair, Reading, Refusal
from evenhand.data.similarity import near_groups

Outcome = Literal["kept", "dropped"]


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """What became of one judgment: kept in the pair `pair`, or dropped by `rule`, and why in words.

    `noise` is the probability that its verdict is wrong, by all annotators' records (Dawid and Skene 1979); None where no
    second annotator judged its item.
    """

    id: str
    row: int
    annotator: str | None
    outcome: Outcome
    rule: str | None
    detail: str
    pair: str | None
    noise: float | None = None

    def json(self) -> dict[str, Any]:
        """The ledger's row."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Curation:
    """The pairs that survived and an account of everything that came in.

    `ledger` has one row for every judgment read, in input order. Several judgments of one item that agree are kept in
    one pair. `categories_given` counts the pairs whose category was in the data; the others' follow `category.RULES`.
    """

    pairs: tuple[PreferencePair, ...]
    ledger: tuple[LedgerRow, ...]
    refusals: tuple[Refusal, ...]
    rules: CurationRules
    named: tuple[Naming, ...]
    categories_given: int

    @property
    def counts(self) -> dict[str, Any]:
        """Judgments in, kept and dropped by rule, and the pairs that they became."""
        dropped = Counter(row.rule for row in self.ledger if row.rule is not None)
        return {
            "judgments": len(self.ledger),
            "kept": len(self.ledger) - dropped.total(),
            "pairs": len(self.pairs),
            "dropped": {name: dropped[name] for name in self.rules.order if dropped[name]},
        }


def curate(
    reading: Reading, rules: CurationRules, facts: Facts | None = None, encode: Encode | None = None
) -> Curation:
    """Apply the rules in their order; the same judgments in any order give the same pairs.

    The category of a pair is the given one or that of `category_of`; its family joins the given one and all prompts
    that are nearly the same. `facts` are those of the reading where they are known already.
    """
    bench = bench_of(facts or facts_of(reading.judgments), rules, encode=encode)
    alive, fate = list(range(len(bench))), dict[int, tuple[str, str]]()
    for name in rules.order:
        dropped = STEPS[name](bench, alive)
        fate |= {at: (name, detail) for at, detail in dropped.items()}
        alive = [at for at in alive if at not in dropped]
    keeper, likely = _keepers(bench, alive), likely_labels(shared_ratings(bench.ballots, bench.same))
    pairs = _described([bench.judgment(at) for at in sorted(set(keeper.values()))], rules.families)
    ledger = sorted(
        (
            replace(_ledger_row(bench, at, fate.get(at), keeper), noise=_noise(likely, bench.same[at]))
            for at in range(len(bench))
        ),
        key=lambda row: (row.row, row.id, row.annotator or ""),
    )
    given = sum(bench.ballots[at].category is not None for at in set(keeper.values()))
    return Curation(pairs, tuple(ledger), reading.refusals, rules, bench.named, given)


def families(prompts: Sequence[str], given: Sequence[str | None], threshold: float) -> list[str]:
    """The family of each prompt: prompts alike, or given the same family, or linked by a chain of either."""
    near = near_groups(prompts, threshold)
    top: dict[str, str] = {}

    def find(name: str) -> str:
        while (above := top.setdefault(name, name)) != name:
            top[name] = top[above]
            name = above
        return name

    names = [f"given {own}" if own is not None else f"near {group}" for own, group in zip(given, near)]
    for name, group in zip(names, near):
        one, other = sorted((find(name), find(f"near {group}")))
        top[other] = one
    return [find(name).partition(" ")[2] for name in names]


def _keepers(bench: Bench, alive: Sequence[int]) -> dict[int, int]:
    """For each surviving judgment the one whose id its pair carries."""
    first: dict[bytes, int] = {}
    return {at: first.setdefault(bench.same[at].item, at) for at in alive}


def _described(judgments: Sequence[Judgment], threshold: float) -> tuple[PreferencePair, ...]:
    """The judgments as pairs, each with a category and a family."""
    family = families([prompt_text(own.prompt) for own in judgments], [own.family for own in judgments], threshold)
    return tuple(
        replace(pair_of(own), family=name, category=own.category or category_of(own.prompt))
        for own, name in zip(judgments, family)
    )


def _ledger_row(bench: Bench, at: int, fate: tuple[str, str] | None, keeper: Mapping[int, int]) -> LedgerRow:
    own = bench.ballots[at]
    if fate is not None:
        return LedgerRow(own.id, own.row, own.annotator, "dropped", fate[0], fate[1], None)
    return LedgerRow(own.id, own.row, own.annotator, "kept", None, "", bench.ballots[keeper[at]].id)


def _noise(likely: Mapping[bytes, tuple[float, ...]], said: Identity) -> float | None:
    shares = likely.get(said.item)
    return None if shares is None else round(1 - shares[said.label], 6)
