"""What the checks of an audit look at: the judgments on the bench, their agreement and biases, computed once."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from evenhand.data.agreement import Agreement, agreement, shared_ratings
from evenhand.data.bench import Bench, CurationRules, Encode, bench_of
from evenhand.data.bias import first_won, longer_won, share, share_of_true
from evenhand.data.facts import Facts
from evenhand.data.findings import Severity
from evenhand.data.items import Ballot
from evenhand.data.kinds import UNDECIDED
from evenhand.data.leaning import length_auc
from evenhand.data.rules import exact_duplicates, ties
from evenhand.data.schema import Reading
from evenhand.figure import Figure

_CERTAIN = 3.29  # standard deviations: by chance once in 1,000 clean data sets
_MANY_ANNOTATORS = 0.2
_ONE_SIDED = 0.7


@dataclass(frozen=True, slots=True)
class AuditOptions:
    """What an audit compares with: the curation's rules, held-out judgments, and a token limit with its encoder.

    `max_tokens` bounds prompt and answer together and needs `encode`; without both, length in tokens is not checked.
    """

    rules: CurationRules = field(default_factory=CurationRules)
    held_out: Reading | None = None
    encode: Encode | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """Everything that a check may look at; `decided` are the places of judgments left after ties and exact repeats."""

    reading: Reading
    options: AuditOptions
    bench: Bench
    decided: tuple[int, ...]
    agreement: Agreement
    figures: dict[str, Figure]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one check found: places on the bench, refused rows' reasons, how bad it is, and the figures in words."""

    places: tuple[int, ...]
    severity: Severity
    detail: str = ""
    reasons: tuple[str, ...] = ()


def case_of(reading: Reading, facts: Facts, options: AuditOptions) -> Case:
    """Everything that the checks need, computed once."""
    bench = bench_of(facts, options.rules, as_read=True)
    everything = range(len(bench))
    gone = ties(bench, everything).keys() | exact_duplicates(bench, everything).keys()
    agreed = agreement(shared_ratings(bench.ballots, bench.same))
    decided = tuple(at for at in everything if at not in gone)
    return Case(reading, options, bench, decided, agreed, _figures(reading.kind, bench, agreed))


def _figures(kind: str, bench: Bench, agreed: Agreement) -> dict[str, Figure]:
    longer = share_of_true([longer_won(own) for own in bench.ballots])
    return {
        "ties": share(sum(own.verdict == "tie" for own in bench.ballots), len(bench)),
        "longer_is_chosen": longer,
        "length_only_accuracy": _better_side(longer),
        "length_only_auc": length_auc(bench.ballots),
        "first_written_is_chosen": first_written_won(kind, bench.ballots),
        "first_shown_is_chosen": share_of_true([first_won(own) for own in bench.ballots]),
        "percent_agreement": agreed.percent,
        "krippendorff_alpha": agreed.krippendorff_alpha,
        "cohen_kappa": agreed.cohen_kappa,
        "fleiss_kappa": agreed.fleiss_kappa,
    }


def _better_side(longer: Figure) -> Figure:
    """How often the better of "take the longer" and "take the shorter" is right; answers of equal length left out."""
    if longer.value is None or longer.low is None or longer.high is None or longer.value >= 0.5:
        return longer
    return Figure(1 - longer.value, longer.n, 1 - longer.high, 1 - longer.low)


def first_written_won(kind: str, ballots: Sequence[Ballot]) -> Figure:
    """How often the answer written as the first wins, where the columns do not say who won."""
    if kind not in UNDECIDED:
        return Figure(None, 0)
    return share_of_true([None if own.verdict == "tie" else own.verdict == "a" for own in ballots])
