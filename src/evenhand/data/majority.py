"""Several verdicts on one contest become the pair that most of them stand for."""

from collections import Counter
from collections.abc import Hashable, Iterable

from evenhand.data.schema import Judgment, PreferencePair, to_pair


def majority_pairs(judgments: Iterable[Judgment]) -> tuple[PreferencePair, ...]:
    """One pair for each contest, in the order of its first judgment; a contest without a single winner gives none.

    Verdicts are on one contest if they come from one row or from named annotators, and are on the same prompt and
    answers, in either order. Rows that name no annotator were decided before: each keeps its own pair.
    """
    contests: dict[Hashable, list[Judgment]] = {}
    for judgment in judgments:
        contests.setdefault(contest_of(judgment), []).append(judgment)
    pairs = (majority_pair(found) for found in contests.values())
    return tuple(pair for pair in pairs if pair is not None)


def contest_of(judgment: Judgment) -> Hashable:
    """What a judgment is a verdict on."""
    row = judgment.row if judgment.annotator is None else None
    return row, judgment.prompt, frozenset((judgment.answer_a, judgment.answer_b))


def majority_pair(judgments: list[Judgment]) -> PreferencePair | None:
    """The pair of the first judgment that agrees with most; None if most say tie or no verdict has most votes."""
    votes = Counter(winner_of(judgment) for judgment in judgments)
    (winner, count), *others = votes.most_common(2)
    if winner is None or (others and others[0][1] == count):
        return None
    return to_pair(next(judgment for judgment in judgments if winner_of(judgment) == winner))


def winner_of(judgment: Judgment) -> str | None:
    """The answer that won, None for a tie."""
    match judgment.verdict:
        case "a":
            return judgment.answer_a
        case "b":
            return judgment.answer_b
        case "tie":
            return None
