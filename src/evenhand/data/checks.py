"""The checks of an audit, one small function each, in one table; each finds the judgments that a rule would remove."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from evenhand.data.bench import Encode
from evenhand.data.bias import Habit
from evenhand.data.bursts import bursts, day_of
from evenhand.data.case import Case, Evidence
from evenhand.data.curate import families
from evenhand.data.findings import Severity
from evenhand.data.items import prompt_text
from evenhand.data.limits import tokens_of
from evenhand.data.marks import PERSONAL, Mark
from evenhand.data.rules import annotators_named, contradictions, exact_duplicates, near_duplicates, outvoted, ties
from evenhand.data.schema import Judgment, Reading
from evenhand.data.triggers import Stance, Trigger, trigger_phrases

_CERTAIN = 3.29  # standard deviations: by chance once in 1,000 clean data sets
_MANY_ANNOTATORS = 0.2
_ONE_SIDED = 0.7
_PHRASES_LOOKED_AT = 10_000


def exact_duplicate(case: Case) -> Evidence:
    """Repeats of one annotator's verdict on one item."""
    return Evidence(tuple(exact_duplicates(case.bench, range(len(case.bench)))), "warning")


def near_duplicate(case: Case) -> Evidence:
    """Items that are nearly another item with the same winner."""
    return Evidence(tuple(near_duplicates(case.bench, case.decided)), "warning")


def tie(case: Case) -> Evidence:
    """Verdicts that prefer neither answer."""
    return Evidence(tuple(ties(case.bench, range(len(case.bench)))), "info")


def contradiction(case: Case) -> Evidence:
    """Items on which annotators differ who are not at odds anyway, and circles of preferences."""
    odd = annotators_named(case.bench, case.decided)
    left = [at for at in case.decided if at not in odd]
    places = contradictions(case.bench, left)
    beaten = sum(at in places for at in outvoted(case.bench, left))
    return Evidence(
        tuple(places), "severe", f"a majority would settle some and drop {beaten} judgments" if beaten else ""
    )


def identical_answers(case: Case) -> Evidence:
    """Two answers that differ in nothing but case and white space, or in nothing that the model would see."""
    places = set(_places(case, Mark.IDENTICAL))
    words = [f"{len(places)} but for case and white space"] if places else []
    for what, more in _same_tokens(case, places):
        places |= more
        words.append(f"{len(more)} {what}")
    ordered = tuple(sorted(at for at in places if case.bench.ballots[at].verdict != "tie"))
    return Evidence(ordered, "warning", ", ".join(words), reasons=("identical_answers", "identical_answers_normalised"))


def near_tie(case: Case) -> Evidence:
    """Two answers that differ in less than one character in a hundred."""
    decided = tuple(at for at in _places(case, Mark.NEAR_TIE) if case.bench.ballots[at].verdict != "tie")
    return Evidence(decided, "warning")


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


def one_sided(case: Case) -> Evidence | None:
    """The answer written as the first wins far too often, or seldom, where the columns do not say who won."""
    figure = case.figures["first_written_is_chosen"]
    if figure.value is None or figure.low is None or figure.high is None:
        return None
    if not (figure.low > _ONE_SIDED or figure.high < 1 - _ONE_SIDED):
        return None
    return Evidence((), "warning", f"the answer written first wins {figure.words(percent=True, digits=1)}")


def annotator_dominates(case: Case) -> Evidence | None:
    """One annotator of several gave more than a fifth of all judgments, and twice an even share."""
    given = Counter(own.annotator for own in case.bench.ballots if own.annotator is not None)
    limit = max(_MANY_ANNOTATORS, 2 / max(1, len(given))) * given.total()
    large = [(who, count) for who, count in given.most_common() if count > limit]
    if len(given) < 3 or not large:
        return None
    words = ", ".join(f"{who} {count / given.total():.1%}" for who, count in large)
    return Evidence((), "warning", f"{words} of {given.total()} judgments by {len(given)} annotators")


def burst(case: Case) -> Evidence | None:
    """Days on which one annotator gave most judgments of several annotators, and far more than that one's share."""
    ballots = case.bench.ballots
    found = bursts((own.annotator, own.time) for own in ballots)
    if not found:
        return None
    held = {(one.hand, one.day) for one in found}
    places = tuple(
        at for at, own in enumerate(ballots) if own.time is not None and (own.annotator, day_of(own.time)) in held
    )
    return Evidence(places, "warning", "; ".join(one.words() for one in found[:5]))


def trigger_phrase(case: Case) -> Evidence | None:
    """Phrases that decide the verdict, as one who poisons labels plants them; looked for in 10,000 judgments at most."""
    decided = case.decided[:: -(-len(case.decided) // _PHRASES_LOOKED_AT) or 1]
    found = trigger_phrases([_stance(case.bench.judgment(at)) for at in decided])
    if not found:
        return None
    words = "; ".join(trigger.words() for trigger in found[:5])
    looked = "" if len(decided) == len(case.decided) else f" (in {len(decided)} of {len(case.decided)} judgments)"
    severity: Severity = "severe" if found[0].hand is not None else "warning"
    return Evidence(tuple(at for at, own in _judgments(case) if _planted(own, found)), severity, words + looked)


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
    places = _places(case, Mark.TEMPLATE)
    return Evidence(places, "severe" if len(places) >= 0.05 * len(case.bench) else "warning")


def control_token(case: Case) -> Evidence:
    """Control strings in the middle of a text."""
    return Evidence(_places(case, Mark.CONTROL, without=Mark.TEMPLATE), "warning")


def leak(case: Case) -> Evidence | None:
    """Prompts that are nearly one of the held-out prompts."""
    if case.options.held_out is None:
        return None
    prompts = (prompt_text(own.prompt) for _, own in _judgments(case))
    return Evidence(tuple(leaked(prompts, case.options.held_out, case.options.rules.families)), "severe")


def leaked(prompts: Iterable[str], held_out: Reading, threshold: float) -> list[int]:
    """The places of prompts that are of one family with a held-out one."""
    kept_back = [prompt_text(own.prompt) for own in held_out.judgments]
    together = [*kept_back, *prompts]
    family = families(together, [None] * len(together), threshold)
    known = set(family[: len(kept_back)])
    return [at for at, name in enumerate(family[len(kept_back) :]) if name in known]


def pii(case: Case) -> Evidence:
    """Keys, e-mail addresses, card, account and phone numbers."""
    found = {kind: len(places) for kind, bit in sorted(PERSONAL.items()) if (places := _places(case, bit))}
    words = ", ".join(f"{kind} in {count}" for kind, count in found.items())
    everything = _places(case, sum(PERSONAL.values()))
    return Evidence(everything, "severe" if "key" in found else "warning", words)


def empty(case: Case) -> Evidence:
    """Prompts and answers without text."""
    return Evidence(_places(case, Mark.EMPTY), "warning", reasons=("empty",))


def not_language(case: Case) -> Evidence:
    """Texts that are no language: one run without spaces, hardly a letter, or one sound repeated."""
    return Evidence(_places(case, Mark.WORDLESS), "info")


def too_long(case: Case) -> Evidence:
    """Rows over the reader's limits, and over `max_tokens` where an encoder was given."""
    encode, limit = case.options.encode, case.options.max_tokens
    places: tuple[int, ...] = ()
    if encode is not None and limit is not None:
        places = tuple(at for at, own in _judgments(case) if tokens_of(own, encode) > limit)
    return Evidence(places, "warning", reasons=("too_large",))


def refusal(case: Case) -> Evidence:
    """A refusal that was preferred over an answer."""
    verdicts = np.array([own.verdict for own in case.bench.ballots])
    marks_N = _marks(case)
    a_refuses_N, b_refuses_N = (marks_N & Mark.A_REFUSES) > 0, (marks_N & Mark.B_REFUSES) > 0
    won_N = (verdicts == "a") & a_refuses_N & ~b_refuses_N | (verdicts == "b") & b_refuses_N & ~a_refuses_N
    return Evidence(tuple(np.flatnonzero(won_N).tolist()), "info")


Check = Callable[[Case], Evidence | None]
CHECKS: tuple[tuple[str, Check], ...] = tuple(
    (check.__name__, check)
    for check in (
        exact_duplicate,
        near_duplicate,
        tie,
        contradiction,
        identical_answers,
        near_tie,
        length_bias,
        position_bias,
        one_sided,
        annotator_dominates,
        burst,
        trigger_phrase,
        annotator_at_odds,
        low_agreement,
        template_mixed,
        control_token,
        leak,
        pii,
        empty,
        not_language,
        too_long,
        refusal,
    )
)

WITHOUT_ROWS = {"length_bias", "position_bias", "one_sided", "annotator_dominates", "low_agreement"}
"""Findings about the whole, which stand even where no single row would be removed."""


def _marks(case: Case) -> npt.NDArray[np.uint32]:
    return case.bench.facts.measures.marks_N[np.array(case.bench.order, np.int64)]


def _places(case: Case, bits: int, without: int = 0) -> tuple[int, ...]:
    """Places with one of the bits and none of those it must be without."""
    marks_N = _marks(case)
    return tuple(np.flatnonzero(((marks_N & bits) > 0) & ((marks_N & without) == 0)).tolist())


def _named_for(case: Case, *habits: Habit) -> tuple[int, ...]:
    """Places of all judgments by annotators who were named for one of the habits."""
    who = {naming.annotator for naming in case.bench.named if naming.habit in habits}
    return tuple(at for at, own in enumerate(case.bench.ballots) if own.annotator in who)


def _judgments(case: Case) -> Iterator[tuple[int, Judgment]]:
    """Every place with its judgment; on a bench in the order of reading this is one pass over the texts."""
    return ((at, case.bench.judgment(at)) for at in range(len(case.bench)))


def _stance(own: Judgment) -> Stance:
    won, lost = (own.answer_a, own.answer_b) if own.verdict == "a" else (own.answer_b, own.answer_a)
    return Stance(won, lost, own.annotator)


def _planted(own: Judgment, triggers: Sequence[Trigger]) -> bool:
    """Whether one answer alone has one of the phrases, and whoever it is known of judged."""
    return own.verdict != "tie" and any(
        trigger.stands_in(own.answer_a) != trigger.stands_in(own.answer_b)
        for trigger in triggers
        if trigger.hand in (None, own.annotator)
    )


def _prompt_tokens(own: Judgment, encode: Encode) -> int:
    return sum(len(encode(message.content)) for message in own.prompt)


def _same_tokens(case: Case, known: set[int]) -> Iterator[tuple[str, set[int]]]:
    """Judgments whose answers are the same tokens, and those that a cut at the limit would make the same."""
    encode, limit = case.options.encode, case.options.max_tokens
    if encode is None:
        return
    same, cut = set[int](), set[int]()
    for at, own in _judgments(case):
        one, other = encode(own.answer_a), encode(own.answer_b)
        shared = next((place for place, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))
        if at in known:
            continue
        if shared == len(one) == len(other):
            same.add(at)
        elif limit is not None and shared >= max(0, limit - _prompt_tokens(own, encode)):
            cut.add(at)
    yield "as tokens", same
    if limit is not None:
        yield "once cut at the limit", cut
