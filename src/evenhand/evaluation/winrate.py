"""How often one model's replies are judged better than another's, and whether the judge deserves to be believed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from evenhand.data.schema import PreferencePair, Verdict
from evenhand.evaluation.interval import Sample, family_codes, share
from evenhand.evaluation.judge import Judge, Question, Report, Ruling
from evenhand.figure import Figure

_VALUE: dict[Verdict, float] = {"a": 1.0, "tie": 0.5, "b": 0.0}
Item = TypeVar("Item")


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of the items, in their order and evenly over all of them: files are often sorted by something.

    >>> evenly("abcdefg", 5), evenly("abc", 5)
    (['a', 'b', 'c', 'e', 'f'], ['a', 'b', 'c'])
    """
    count = min(most, len(items))
    return [items[i * len(items) // count] for i in range(count)]


@dataclass(frozen=True, slots=True)
class Judged:
    """Questions with their rulings; only rulings with a verdict in both orders are in a figure."""

    questions: tuple[Question, ...]
    rulings: tuple[Ruling, ...]

    @property
    def a_wins(self) -> Sample:
        """For each whole ruling the mean of both orders: 1 for a, 0 for b, a tie one half."""
        return self._sample([(_VALUE[one] + _VALUE[other]) / 2 for one, other in self._verdicts()])

    @property
    def win_rate(self) -> Figure:
        """How often a wins."""
        return share(self.a_wins)

    @property
    def position_bias(self) -> Figure:
        """How often the reply that is shown first wins, a tie one half; 0.5 is a judge without a bias."""
        return share(self._sample([(_VALUE[one] + 1 - _VALUE[other]) / 2 for one, other in self._verdicts()]))

    @property
    def consistent(self) -> Figure:
        """How often both orders give the same verdict."""
        return share(self._sample([float(one == other) for one, other in self._verdicts()]))

    @property
    def unjudged(self) -> dict[str, int]:
        """How many questions have no verdict in one order or both, by what came instead."""
        return dict(Counter(ruling.why or "unknown" for ruling in self.rulings if not ruling.is_whole).most_common())

    def _verdicts(self) -> list[tuple[Verdict, Verdict]]:
        return [(r.a_first, r.b_first) for r in self.rulings if r.a_first is not None and r.b_first is not None]

    def _sample(self, values: Sequence[float]) -> Sample:
        families = [question.family for question, ruling in zip(self.questions, self.rulings) if ruling.is_whole]
        return Sample(np.array(values, dtype=np.float64), family_codes(families, len(values)))


@dataclass(frozen=True, slots=True)
class JudgedWinRate:
    """A judge's agreement with human labels, and the win rate, withheld where that agreement is not above chance."""

    judge: str
    labelled: Judged
    replies: Judged | None

    @property
    def agreement(self) -> Figure:
        """How often the judge prefers what people chose, a tie one half."""
        return self.labelled.win_rate

    @property
    def withheld(self) -> str | None:
        """Why the win rate is not told, None where it may be."""
        if self.agreement.low is None:
            return "the judge gave no verdict on the labelled pairs"
        if self.agreement.low <= 0.5:
            return f"the judge is not shown to agree with people more often than chance ({self.agreement.words()})"
        return None

    def json(self) -> dict[str, Any]:
        """The shape in a comparison."""
        told = self.replies if self.withheld is None else None
        return {
            "judge": self.judge,
            "agreement": self.agreement.json(),
            "position_bias": self.labelled.position_bias.json(),
            "consistent": self.labelled.consistent.json(),
            "unjudged_labelled": self.labelled.unjudged,
            "win_rate": told.win_rate.json() if told else None,
            "unjudged": told.unjudged if told else {},
            "withheld": self.withheld,
        }


def judged(judge: Judge, questions: Sequence[Question], report: Report) -> Judged:
    """The judge's rulings on `questions`."""
    return Judged(tuple(questions), tuple(judge.rule(questions, report)))


def agreement_first(
    judge: Judge, labelled: Sequence[PreferencePair], replies: Sequence[Question], report: Report
) -> JudgedWinRate:
    """Measure the judge on pairs that people labelled, and let it judge `replies` only where it beats chance there."""
    tested = judged(judge, [Question.of(pair) for pair in labelled], report)
    found = JudgedWinRate(judge.name, tested, None)
    return found if found.withheld else JudgedWinRate(judge.name, tested, judged(judge, replies, report))
