"""The checks of an audit, one small function each, in one table; each finds the judgments that a rule would remove."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from evenhand.data.agreement import Agreement, agreement, shared_ratings
from evenhand.data.bias import Habit, first_won, longer_won, share, share_of_true
from evenhand.data.curate import families
from evenhand.data.findings import Severity
from evenhand.data.items import prompt_text
from evenhand.data.patterns import CONTROL_TOKEN, TEMPLATE_START, personal, refuses
from evenhand.data.rules import (
    Bench,
    CurationRules,
    annotators_named,
    bench_of,
    contradictions,
    exact_duplicates,
    near_duplicates,
    outvoted,
    ties,
)
from evenhand.data.schema import Judgment, Reading, to_pair
from evenhand.figure import Figure

Encode = Callable[[str], Sequence[int]]

_CERTAIN = 3.29  # standard deviations: by chance once in 1,000 clean data sets


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


Check = Callable[[Case], Evidence | None]


def case_of(reading: Reading, options: AuditOptions) -> Case:
    """Everything that the checks need, computed once."""
    bench = bench_of(reading.judgments, options.rules, as_read=True)
    everything = range(len(bench.judgments))
    gone = ties(bench, everything).keys() | exact_duplicates(bench, everything).keys()
    agreed = agreement(shared_ratings(bench.judgments, bench.same))
    decided = tuple(at for at in everything if at not in gone)
    return Case(reading, options, bench, decided, agreed, _figures(bench, agreed))


def _figures(bench: Bench, agreed: Agreement) -> dict[str, Figure]:
    longer = share_of_true([longer_won(own) for own in bench.judgments])
    return {
        "ties": share(sum(own.verdict == "tie" for own in bench.judgments), len(bench.judgments)),
        "longer_is_chosen": longer,
        "length_only_accuracy": _better_side(longer),
        "first_shown_is_chosen": share_of_true([first_won(own) for own in bench.judgments]),
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


def exact_duplicate(case: Case) -> Evidence:
    """Repeats of one annotator's verdict on one item."""
    return Evidence(tuple(exact_duplicates(case.bench, range(len(case.bench.judgments)))), "warning")


def near_duplicate(case: Case) -> Evidence:
    """Items that are nearly another item with the same winner."""
    return Evidence(tuple(near_duplicates(case.bench, case.decided)), "warning")


def tie(case: Case) -> Evidence:
    """Verdicts that prefer neither answer."""
    return Evidence(tuple(ties(case.bench, range(len(case.bench.judgments)))), "info")


def contradiction(case: Case) -> Evidence:
    """Items on which annotators differ who are not at odds anyway, and circles of preferences."""
    odd = annotators_named(case.bench, case.decided)
    places = contradictions(case.bench, [at for at in case.decided if at not in odd])
    beaten = sum(at in places for at in outvoted(case.bench, tuple(places)))
    return Evidence(
        tuple(places), "severe", f"a majority would settle some and drop {beaten} judgments" if beaten else ""
    )


def identical_answers(case: Case) -> Evidence:
    """Two answers that differ in nothing but case and white space, if at all."""
    places = _places(case, lambda own: own.verdict != "tie" and _plain(own.answer_a) == _plain(own.answer_b))
    return Evidence(places, "warning", reasons=("identical_answers", "identical_answers_normalised"))


def length_bias(case: Case) -> Evidence | None:
    """The longer answer wins far too often (or seldom), overall or with one annotator."""
    figure, named = case.figures["longer_is_chosen"], _named_for(case, "takes_longer")
    if figure.value is None or figure.low is None or figure.high is None:
        return None
    value = figure.value
    lopsided = (value > 0.7 and figure.low > 0.6) or (value < 0.3 and figure.high < 0.4)
    if not named and not lopsided:
        return None
    worse = value > 0.85 or bool(named)
    return Evidence(
        named, "severe" if worse else "warning", f"the longer answer wins {figure.words(percent=True, digits=1)}"
    )


def position_bias(case: Case) -> Evidence | None:
    """The answer shown first wins too often (or seldom), overall or with one annotator."""
    figure, named = case.figures["first_shown_is_chosen"], _named_for(case, "takes_first")
    off = 0.0 if figure.value is None else abs(figure.value - 0.5)
    if not named and not (off >= 0.05 and 2 * off * figure.n**0.5 > _CERTAIN):
        return None
    words = f"the answer shown first wins {figure.words(percent=True, digits=1)}"
    return Evidence(named, "severe" if named else "warning", words)


def annotator_at_odds(case: Case) -> Evidence | None:
    """Annotators with a habit that the others do not have."""
    if not case.bench.named:
        return None
    words = (
        f"{own.annotator} {own.habit} {own.rate.words(percent=True, digits=1)}, others {own.others:.1%}"
        for own in case.bench.named
    )
    return Evidence(_named_for(case, "takes_longer", "takes_first", "disagrees"), "severe", "; ".join(words))


def low_agreement(case: Case) -> Evidence | None:
    """Krippendorff's alpha under 0.667, the lowest at which he would draw even tentative conclusions."""
    figure = case.agreement.krippendorff_alpha
    if figure.value is None or figure.value >= 0.667:
        return None
    beaten = tuple(outvoted(case.bench, case.decided))
    return Evidence(beaten, "severe" if figure.value < 0.4 else "warning", f"Krippendorff's alpha {figure.words()}")


def template_mixed(case: Case) -> Evidence:
    """Texts that begin as a chat template begins."""
    places = _places(case, _rendered)
    worst = len(places) >= 0.05 * len(case.bench.judgments)
    return Evidence(places, "severe" if worst else "warning")


def control_token(case: Case) -> Evidence:
    """Control strings in the middle of a text."""
    return Evidence(
        _places(case, lambda own: not _rendered(own) and any(CONTROL_TOKEN.search(text) for text in _texts(own))),
        "warning",
    )


def leak(case: Case) -> Evidence | None:
    """Prompts that are nearly one of the held-out prompts."""
    if case.options.held_out is None:
        return None
    held, mine = case.options.held_out.judgments, case.bench.judgments
    prompts = [prompt_text(own.prompt) for own in (*held, *mine)]
    family = families(prompts, [None] * len(prompts), case.options.rules.families)
    kept_back = set(family[: len(held)])
    return Evidence(tuple(at for at, name in enumerate(family[len(held) :]) if name in kept_back), "severe")


def pii(case: Case) -> Evidence:
    """Keys, e-mail addresses, card, account and phone numbers."""
    kinds: dict[int, set[str]] = {}
    for at, own in enumerate(case.bench.judgments):
        if found := set[str]().union(*(personal(text) for text in _texts(own))):
            kinds[at] = found
    names = set[str]().union(*kinds.values())
    words = ", ".join(f"{kind} in {sum(kind in found for found in kinds.values())}" for kind in sorted(names))
    return Evidence(tuple(kinds), "severe" if names & {"key", "card"} else "warning", words)


def empty(case: Case) -> Evidence:
    """Prompts and answers without text."""
    return Evidence(
        _places(case, lambda own: not all(text.strip() for text in _texts(own))), "warning", reasons=("empty",)
    )


def too_long(case: Case) -> Evidence:
    """Rows over the reader's limits, and over `max_tokens` where an encoder was given."""
    encode, limit = case.options.encode, case.options.max_tokens
    places: tuple[int, ...] = ()
    if encode is not None and limit is not None:
        measure, most = encode, limit
        places = _places(case, lambda own: _tokens(own, measure) > most)
    return Evidence(places, "warning", reasons=("too_large",))


def refusal(case: Case) -> Evidence:
    """A refusal that was preferred over an answer."""
    return Evidence(_places(case, _refusal_won), "info")


CHECKS: tuple[tuple[str, Check], ...] = tuple(
    (check.__name__, check)
    for check in (
        exact_duplicate,
        near_duplicate,
        tie,
        contradiction,
        identical_answers,
        length_bias,
        position_bias,
        annotator_at_odds,
        low_agreement,
        template_mixed,
        control_token,
        leak,
        pii,
        empty,
        too_long,
        refusal,
    )
)

WITHOUT_ROWS = {"length_bias", "position_bias", "low_agreement"}
"""Findings about the whole, which stand even where no single row would be removed."""


def _places(case: Case, holds: Callable[[Judgment], bool]) -> tuple[int, ...]:
    return tuple(at for at, own in enumerate(case.bench.judgments) if holds(own))


def _named_for(case: Case, *habits: Habit) -> tuple[int, ...]:
    """Places of all judgments by annotators who were named for one of the habits."""
    who = {naming.annotator for naming in case.bench.named if naming.habit in habits}
    return _places(case, lambda own: own.annotator in who)


def _texts(own: Judgment) -> Iterable[str]:
    yield from (message.content for message in own.prompt)
    yield own.answer_a
    yield own.answer_b


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _rendered(own: Judgment) -> bool:
    return any(TEMPLATE_START.match(text) for text in _texts(own))


def _tokens(own: Judgment, encode: Encode) -> int:
    """Tokens of the prompt and the longer answer."""
    asked = sum(len(encode(message.content)) for message in own.prompt)
    return asked + max(len(encode(own.answer_a)), len(encode(own.answer_b)))


def _refusal_won(own: Judgment) -> bool:
    pair = to_pair(own)
    return pair is not None and refuses(pair.chosen) and not refuses(pair.rejected)
