"""AI feedback: a judge that compares replies by a constitution, and what it says as judgments."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evenhand.data.schema import Judgment, PreferencePair, Verdict
from evenhand.evaluation.endpoint import Endpoint
from evenhand.evaluation.judge import Question, Report, Ruling, rulings
from evenhand.evaluation.winrate import Judged
from evenhand.online.constitution import Constitution, Principle, drawn

# How many first tokens an endpoint is asked the probabilities of: the most that OpenAI's allows.
CANDIDATES = 20
_VALUE: dict[Verdict, float] = {"a": 1.0, "tie": 0.5, "b": 0.0}


@dataclass(frozen=True, slots=True)
class ConstitutionJudge:
    """A model behind an endpoint that compares by one principle drawn for each question, or by every one of them.

    All that it is asked and says is kept in `kept`.
    """

    endpoint: Endpoint
    kept: Path
    constitution: Constitution
    every: bool = False

    @property
    def name(self) -> str:
        """The model, its address, and by what it judges."""
        return f"{self.endpoint.name} by {self.constitution.name}"

    def principles(self, question: Question) -> tuple[Principle, ...]:
        """Those by which the question is judged; they follow from its prompt, so that a second run asks the same."""
        if self.every:
            return self.constitution.principles
        spoken = "\n".join(message.content for message in question.prompt)
        return (drawn(self.constitution.principles, f"{spoken}\n{min(question.answer_a, question.answer_b)}"),)

    def rule(self, questions: Sequence[Question], report: Report) -> list[Ruling]:
        """Both orders of every question by each of its principles, as one ruling."""
        asked = [(question, principle) for question in questions for principle in self.principles(question)]
        found = iter(rulings(self.endpoint, self.kept, [(q, p.prefer) for q, p in asked], report))
        return [_joined([(next(found), one.weight) for one in self.principles(q)]) for q in questions]


def _joined(by_principle: Sequence[tuple[Ruling, float]]) -> Ruling:
    """One ruling of several: in each order what the principles prefer by their weights. It is whole only if all are."""
    if len(by_principle) == 1:
        return by_principle[0][0]
    why = next((ruling.why for ruling, _ in by_principle if not ruling.is_whole), None)
    if why is not None:
        return Ruling(None, None, why)
    weights = np.array([weight for _, weight in by_principle])
    told = [ruling.preference for ruling, _ in by_principle]
    preference = None if None in told else float(np.average(np.array(told, dtype=np.float64), weights=weights))
    orders = [(ruling.a_first, ruling.b_first) for ruling, _ in by_principle]
    a_first, b_first = (
        _side(float(np.average([_VALUE[pair[order] or "tie"] for pair in orders], weights=weights))) for order in (0, 1)
    )
    return Ruling(a_first, b_first, preference=preference)


def _side(value: float, band: float = 0.0) -> Verdict:
    """The verdict at a preference for a: a tie within `band` of one half.

    >>> _side(0.6), _side(0.6, band=0.2), _side(0.1, band=0.2)
    ('a', 'tie', 'b')
    """
    if abs(value - 0.5) <= band + 1e-12:
        return "tie"
    return "a" if value > 0.5 else "b"


def preference_of(ruling: Ruling) -> float | None:
    """How far the judge prefers a, from 0 to 1: its probability, else the mean of both orders; None without a ruling."""
    if ruling.a_first is None or ruling.b_first is None:
        return None
    if ruling.preference is not None:
        return ruling.preference
    return (_VALUE[ruling.a_first] + _VALUE[ruling.b_first]) / 2


def as_written(ruling: Ruling, confidence: float) -> Ruling:
    """The ruling as `judgment_rows` writes it: one verdict for both orders, by which its agreement is measured too."""
    preference = preference_of(ruling)
    if preference is None:
        return ruling
    side = _side(preference, confidence - 0.5)
    return Ruling(side, side, preference=ruling.preference)


def judgment_rows(
    judge: ConstitutionJudge,
    asked: Sequence[tuple[Question, Judgment | PreferencePair]],
    said: Judged,
    confidence: float,
) -> list[dict[str, Any]]:
    """A row for each whole ruling: an ordinary judgment with the judge as annotator, and beside it by which principles, and
    how far a was preferred. A reply preferred by less than `confidence` (0.5 to 1) is a tie."""
    rows = []
    for (question, source), ruling in zip(asked, said.rulings):
        preference = preference_of(ruling)
        if preference is None:
            continue
        rows.append(
            {
                "id": question.id,
                "prompt": [message.json() for message in question.prompt],
                "answer_a": question.answer_a,
                "answer_b": question.answer_b,
                "verdict": as_written(ruling, confidence).a_first,
                "annotator": judge.name,
                **({"category": source.category} if source.category else {}),
                "principles": [one.id for one in judge.principles(question)],
                "preference": preference,
            }
        )
    return rows


def by_principle(judge: ConstitutionJudge, said: Judged) -> dict[str, Judged]:
    """The questions of each principle, where one was drawn for each question."""
    if judge.every:
        return {}
    found: dict[str, Judged] = {}
    for one in judge.constitution.principles:
        own = [(q, r) for q, r in zip(said.questions, said.rulings) if judge.principles(q) == (one,)]
        found[one.id] = Judged(tuple(q for q, _ in own), tuple(r for _, r in own))
    return found
