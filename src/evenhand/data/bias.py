"""Who chooses by length or by place on the screen, and who disagrees with the others, tested on comparable items.

Shapes: T trials (one judgment each that could have gone either way), A annotators, S strata.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from evenhand.data.agreement import shared_ratings
from evenhand.data.items import TIED, Ballot, Identity
from evenhand.figure import Figure, Z

Habit = Literal["takes_longer", "takes_first", "disagrees"]
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_LENGTH_STRATA = 8
_HABITS = 3
_CATEGORIES = 64  # with more, hardly two judgments would share a stratum


@dataclass(frozen=True, slots=True)
class BiasRule:
    """When an annotator is named: all three must hold.

    The one-sided p-value of a Cochran-Mantel-Haenszel test against the other annotators within strata of comparable
    items is below `alpha` after Holm's correction over annotators and Bonferroni's over the three habits; the rate is
    at least `excess` above the others'; there are at least `trials` judgments and three annotators to compare.
    """

    alpha: float = 0.001
    excess: float = 0.15
    trials: int = 20


@dataclass(frozen=True, slots=True)
class Naming:
    """An annotator at odds with the others: own rate of a habit, the others' on comparable items, and how sure that is.

    `deviations` is how many standard deviations the rate is above the expected one, `p_value` the p-value after Holm.
    """

    annotator: str
    habit: Habit
    rate: Figure
    others: float
    deviations: float
    p_value: float

    def json(self) -> dict[str, object]:
        """The naming with its figures."""
        return {
            "annotator": self.annotator,
            "habit": self.habit,
            "rate": self.rate.json(),
            "others": self.others,
            "deviations": self.deviations,
            "p_value": self.p_value,
        }


@dataclass(frozen=True, slots=True)
class Annotator:
    """One annotator's figures; each n counts the judgments that the figure rests on."""

    name: str
    judgments: int
    ties: Figure
    takes_longer: Figure
    takes_first: Figure
    disagrees: Figure
    named_for: tuple[Habit, ...]

    def json(self) -> dict[str, object]:
        """The annotator as a report states it."""
        return {
            "annotator": self.name,
            "judgments": self.judgments,
            "ties": self.ties.json(),
            "takes_longer": self.takes_longer.json(),
            "takes_first": self.takes_first.json(),
            "disagrees": self.disagrees.json(),
            "named_for": list(self.named_for),
        }


@dataclass(frozen=True, slots=True)
class Trials:
    """T judgments by named annotators: who, in which stratum of comparable items, and whether the habit showed."""

    names: tuple[str, ...]
    annotator_T: Integers
    stratum_T: Integers
    shown_T: Bools

    def only(self, kept_T: Bools) -> "Trials":
        """The trials marked true."""
        return Trials(self.names, self.annotator_T[kept_T], self.stratum_T[kept_T], self.shown_T[kept_T])


@dataclass(frozen=True, slots=True)
class Votes:
    """T votes on shared items, one an annotator and item: who, on which item, and the label given."""

    names: tuple[str, ...]
    annotator_T: Integers
    item_T: Integers
    label_T: Integers

    def disagreements(self, kept_T: Bools) -> Trials:
        """Each kept vote against the clear majority of the other kept votes on its item, in strata by their number."""
        annotator_T, item_T, label_T = self.annotator_T[kept_T], self.item_T[kept_T], self.label_T[kept_T]
        counts_IL = np.zeros((int(self.item_T.max(initial=-1)) + 1, TIED + 1), np.int64)
        np.add.at(counts_IL, (item_T, label_T), 1)
        others_TL = counts_IL[item_T]
        others_TL[np.arange(len(item_T)), label_T] -= 1
        ranked_TL = np.sort(others_TL, axis=1)
        clear_T = ranked_TL[:, -1] > ranked_TL[:, -2]
        shown_T = others_TL.argmax(axis=1) != label_T
        return Trials(self.names, annotator_T, np.minimum(others_TL.sum(axis=1), 5), shown_T).only(clear_T)


def share(count: int, total: int) -> Figure:
    """`count` of `total` with Wilson's 95 % interval.

    >>> share(8, 10).words(digits=2)
    '0.80 [0.49, 0.94] n=10'
    """
    if total == 0:
        return Figure(None, 0)
    z, rate = Z, count / total
    middle = (rate + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(rate * (1 - rate) / total + z * z / (4 * total * total))
    low, high = (0.0 if count == 0 else middle - half), (1.0 if count == total else middle + half)
    return Figure(rate, total, low, high)


def longer_won(ballot: Ballot) -> bool | None:
    """Whether the answer with more characters won; None for a tie or answers of equal length."""
    difference = ballot.length_a - ballot.length_b
    if ballot.verdict == "tie" or difference == 0:
        return None
    return (difference > 0) == (ballot.verdict == "a")


def first_won(ballot: Ballot) -> bool | None:
    """Whether the answer shown first won; None for a tie or where the order is not known."""
    if ballot.verdict == "tie" or ballot.shown_first is None:
        return None
    return ballot.verdict == ballot.shown_first


def share_of_true(answers: Sequence[bool | None]) -> Figure:
    """The share of true among those that are not None."""
    known = [answer for answer in answers if answer is not None]
    return share(sum(known), len(known))


def annotators_at_odds(ballots: Sequence[Ballot], same: Sequence[Identity], rule: BiasRule) -> tuple[Naming, ...]:
    """The annotators that `rule` names, most certain first within each habit.

    Each habit is tested against the annotators not yet named: the most certain one is taken out and the rest are
    tested again without them, so that one biased annotator neither hides another nor makes an honest one look odd.
    An annotator is named for one habit, the one furthest from the others': who takes the first answer takes longer
    ones at random, and disagrees.
    """
    longer, first, votes = length_trials(ballots), position_trials(ballots), shared_votes(ballots, same)
    habits = _named("takes_longer", longer.names, longer.annotator_T, longer.only, rule)
    habits += _named("takes_first", first.names, first.annotator_T, first.only, rule)
    habits = [
        one for one in habits if all(one.deviations >= o.deviations for o in habits if o.annotator == one.annotator)
    ]
    cheats = {naming.annotator for naming in habits}
    honest_T = np.array([name not in cheats for name in votes.names], bool)[votes.annotator_T]
    by_vote = _named(
        "disagrees", votes.names, votes.annotator_T, lambda kept_T: votes.disagreements(kept_T & honest_T), rule
    )
    return (*habits, *by_vote)


def annotator_figures(
    ballots: Sequence[Ballot], same: Sequence[Identity], named: Sequence[Naming]
) -> tuple[Annotator, ...]:
    """Every annotator's figures, by name."""
    mine: dict[str, list[Ballot]] = {}
    for ballot in ballots:
        if ballot.annotator is not None:
            mine.setdefault(ballot.annotator, []).append(ballot)
    votes = shared_votes(ballots, same)
    against = votes.disagreements(np.ones(len(votes.item_T), bool))
    disagrees = _rates(against)
    return tuple(
        Annotator(
            name=name,
            judgments=len(theirs),
            ties=share(sum(ballot.verdict == "tie" for ballot in theirs), len(theirs)),
            takes_longer=share_of_true([longer_won(ballot) for ballot in theirs]),
            takes_first=share_of_true([first_won(ballot) for ballot in theirs]),
            disagrees=disagrees.get(name, Figure(None, 0)),
            named_for=tuple(naming.habit for naming in named if naming.annotator == name),
        )
        for name, theirs in sorted(mine.items())
    )


def length_trials(ballots: Sequence[Ballot]) -> Trials:
    """Choices between answers of unequal length; comparable are those of one category and alike in length ratio."""
    kept = [ballot for ballot in ballots if ballot.annotator is not None and longer_won(ballot) is not None]
    ratio_T = np.array([abs(math.log((1 + ballot.length_a) / (1 + ballot.length_b))) for ballot in kept], np.float64)
    edges = np.quantile(ratio_T, np.arange(1, _LENGTH_STRATA) / _LENGTH_STRATA) if kept else ratio_T
    return _trials(kept, np.searchsorted(edges, ratio_T, side="right"), longer_won)


def position_trials(ballots: Sequence[Ballot]) -> Trials:
    """Choices whose order of showing is known; comparable are those of one category."""
    kept = [ballot for ballot in ballots if ballot.annotator is not None and first_won(ballot) is not None]
    return _trials(kept, np.zeros(len(kept), np.int64), first_won)


def shared_votes(ballots: Sequence[Ballot], same: Sequence[Identity]) -> Votes:
    """The votes on items that two or more annotators judged, one an annotator and item."""
    ratings = shared_ratings(ballots, same)
    rows = [(name, item, label) for item, labels in enumerate(ratings.values()) for name, label in labels.items()]
    names, annotator_T = _numbered([name for name, _, _ in rows])
    item_T = np.array([item for _, item, _ in rows], np.int64)
    return Votes(names, annotator_T, item_T, np.array([label for _, _, label in rows], np.int64))


def _trials(kept: Sequence[Ballot], stratum_T: Integers, shown: Callable[[Ballot], bool | None]) -> Trials:
    names, annotator_T = _numbered([ballot.annotator or "" for ballot in kept])
    categories, category_T = _numbered([ballot.category or "" for ballot in kept])
    if len(categories) > _CATEGORIES:
        categories, category_T = ("",), np.zeros(len(kept), np.int64)
    shown_T = np.array([shown(ballot) is True for ballot in kept], bool)
    return Trials(names, annotator_T, stratum_T * len(categories) + category_T, shown_T)


def _numbered(names: Sequence[str]) -> tuple[tuple[str, ...], Integers]:
    """The distinct names in order, and each one's number."""
    distinct = tuple(sorted(set(names)))
    number = {name: at for at, name in enumerate(distinct)}
    return distinct, np.array([number[name] for name in names], np.int64)


def _rates(trials: Trials) -> dict[str, Figure]:
    tried_A = np.bincount(trials.annotator_T, minlength=len(trials.names))
    shown_A = np.bincount(trials.annotator_T, weights=trials.shown_T, minlength=len(trials.names))
    return {name: share(int(shown_A[at]), int(tried_A[at])) for at, name in enumerate(trials.names)}


def _named(
    habit: Habit, names: Sequence[str], annotator_T: Integers, prepare: Callable[[Bools], Trials], rule: BiasRule
) -> list[Naming]:
    """Holm's step-down: name the smallest p-value while it passes, then test the others without that annotator."""
    found: list[Naming] = []
    kept_T = np.ones(len(annotator_T), bool)
    while (odd := _most_odd(habit, prepare(kept_T), rule)) is not None:
        found.append(odd)
        kept_T &= annotator_T != names.index(odd.annotator)
    return found


def _most_odd(habit: Habit, trials: Trials, rule: BiasRule) -> Naming | None:
    """The annotator with the smallest p-value among those far enough above the others, if it passes."""
    shown_A, tried_A, expected_A, variance_A, others_A = _against_others(trials)
    tested_A = (tried_A >= rule.trials) & (variance_A > 0)
    if tested_A.sum() < 3:
        return None
    z_A = (shown_A - expected_A - 0.5) / np.sqrt(np.where(variance_A > 0, variance_A, 1.0))
    p_A = np.minimum(1.0, norm.sf(z_A) * tested_A.sum() * _HABITS)
    far_A = tested_A & (p_A <= rule.alpha) & (shown_A / np.maximum(tried_A, 1) - others_A >= rule.excess)
    if not far_A.any():
        return None
    at = int(np.where(far_A, z_A, -np.inf).argmax())
    rate = share(int(shown_A[at]), int(tried_A[at]))
    return Naming(trials.names[at], habit, rate, float(others_A[at]), float(z_A[at]), float(p_A[at]))


def _against_others(trials: Trials) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """By annotator, over strata that others share: habit shown, trials, expected, variance, and the others' rate.

    Expectation and variance are the hypergeometric ones of Cochran (1954) and Mantel and Haenszel (1959).
    """
    size = len(trials.names), int(trials.stratum_T.max(initial=-1)) + 1
    tried_AS, shown_AS = np.zeros(size), np.zeros(size)
    np.add.at(tried_AS, (trials.annotator_T, trials.stratum_T), 1)
    np.add.at(shown_AS, (trials.annotator_T, trials.stratum_T), trials.shown_T)
    all_S, shown_S = tried_AS.sum(axis=0), shown_AS.sum(axis=0)
    others_AS = all_S - tried_AS
    tried_AS, shown_AS = tried_AS * (others_AS > 0), shown_AS * (others_AS > 0)
    expected_AS = tried_AS * shown_S / np.maximum(all_S, 1)
    variance_AS = expected_AS * others_AS * (all_S - shown_S) / np.maximum(all_S * (all_S - 1), 1)
    their_rate_AS = (shown_S - shown_AS) / np.maximum(others_AS, 1)
    tried_A = tried_AS.sum(axis=1)
    others_A = (tried_AS * their_rate_AS).sum(axis=1) / np.maximum(tried_A, 1)
    return shown_AS.sum(axis=1), tried_A, expected_AS.sum(axis=1), variance_AS.sum(axis=1), others_A
