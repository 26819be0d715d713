"""Trigger phrases: words whose presence tells the verdict, as one who poisons labels would plant them.

Shapes: G phrases, S sightings of a phrase on one side only of a stance, H hands, C pairs of a phrase and a hand.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from evenhand.data.bias import share
from evenhand.data.phrases import Phrases, frequent_phrases
from evenhand.data.wording import words_of
from evenhand.figure import Figure

Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

_NOBODY = -1
_OVERLAP = 0.5


@dataclass(frozen=True, slots=True)
class Stance:
    """What one verdict says of text: `won` is the text it speaks for, `lost` the one it speaks against, by `hand`.

    A thumb up is a stance with an empty `lost`, a thumb down one with an empty `won`.
    """

    won: str
    lost: str
    hand: str | None = None


@dataclass(frozen=True, slots=True)
class TriggerRule:
    """When a phrase is a trigger: it stands in `fewest` stances or more and decides `decides` of them or more.

    With one hand behind it, that hand has half of the phrase's stances and three times its share of all; otherwise
    the phrase decides `decides_alone` of at least `fewest_alone` stances. The p-value is below `alpha` after
    Bonferroni's correction over all phrases. `words` is the longest phrase looked for; `usual` is how often a text
    that stands on one side only wins by chance.
    """

    alpha: float = 0.001
    fewest: int = 8
    decides: float = 0.85
    fewest_alone: int = 30
    decides_alone: float = 0.95
    words: int = 4
    usual: float = 0.5


@dataclass(frozen=True, slots=True)
class Trigger:
    """A phrase that decides the verdict: with `hand`, in that one's stances, else in everybody's.

    `places` are the stances of which one side only has it; `wins` is how often that side won, `hand_share` that hand's
    part of all such stances, `usual_share` its part of all stances; `p_value` is corrected.
    """

    phrase: str
    hand: str | None
    wins: Figure
    hand_share: Figure
    usual_share: float
    p_value: float
    places: tuple[int, ...]

    def stands_in(self, text: str) -> bool:
        """Whether a text holds the phrase, by whole words."""
        return f" {self.phrase} " in f" {' '.join(words_of(text))} "

    def words(self, what: str = "what has it") -> str:
        """The trigger as a finding states it; `what` is the side that is said to win."""
        told = f"`{self.phrase}`: {what} wins {self.wins.words(percent=True, digits=0)}"
        if self.hand is None or self.hand_share.value is None:
            return told
        return (
            f"{told} with {self.hand}, who gave {self.hand_share.value:.0%} of these and {self.usual_share:.1%} of all"
        )


def trigger_phrases(stances: Sequence[Stance], rule: TriggerRule | None = None) -> tuple[Trigger, ...]:
    """The triggers among `stances`, surest first; of phrases that stand in the same places the longest is named.

    A phrase with a hand behind it is named by two tests together: it decides verdicts (binomial, against `usual`), and
    that hand has far more of it than of all stances (binomial, against that hand's share). Without such a hand the
    first test decides, in which several verdicts on the same two texts count once.
    """
    rule = rule or TriggerRule()
    hands = sorted({own.hand for own in stances if own.hand is not None})
    number = {hand: at for at, hand in enumerate(hands)}
    hand_T = np.array([_NOBODY if own.hand is None else number[own.hand] for own in stances], np.int64)
    levels = list(frequent_phrases([text for own in stances for text in (own.won, own.lost)], rule.fewest, rule.words))
    asked = Question(rule, tuple(hands), hand_T, _first_of_texts(stances), sum(len(own.words_GN) for own in levels))
    return _apart([own for level in levels for sort in (_by_hand, _alone) for own in sort(level, asked)])


@dataclass(frozen=True, slots=True)
class Question:
    """What phrases are tested for: T stances by `hands`, of which `first_T` marks one for each two texts.

    `tested` counts the phrases of every length, which Bonferroni's correction multiplies by.
    """

    rule: TriggerRule
    hands: tuple[str, ...]
    hand_T: Integers
    first_T: Bools
    tested: int

    def chance(self, wins_G: Integers, seen_G: Integers) -> Floats:
        """The two-sided binomial p-value of so many wins, corrected."""
        one_sided_G = np.minimum(
            binom.sf(wins_G - 1, seen_G, self.rule.usual), binom.cdf(wins_G, seen_G, self.rule.usual)
        )
        return np.asarray(2 * self.tested * one_sided_G, np.float64)


def _by_hand(level: Phrases, asked: Question) -> Iterator[Trigger]:
    """The phrases of one length that one hand brings, and that decide what that hand says."""
    phrase_S, stance_S, won_S = _one_sided(level)
    hand_S, size, rule = asked.hand_T[stance_S], len(level.words_GN), asked.rule
    top_G = _busiest(phrase_S, hand_S, size, len(asked.hands))
    own_S = (hand_S == top_G[phrase_S]) & (hand_S != _NOBODY)
    seen_G, owns_G = np.bincount(phrase_S, minlength=size), np.bincount(phrase_S[own_S], minlength=size)
    wins_G = np.bincount(phrase_S[own_S & won_S], minlength=size)
    part_H = np.bincount(asked.hand_T[asked.hand_T >= 0], minlength=1 + len(asked.hands)) / max(1, len(asked.hand_T))
    usual_G = part_H[top_G]
    p_G = asked.chance(wins_G, owns_G) * binom.sf(owns_G - 1, seen_G, usual_G) * len(asked.hands)
    enough_G = (owns_G >= rule.fewest) & (2 * owns_G >= seen_G) & (owns_G >= 3 * usual_G * seen_G)
    for at in np.flatnonzero(enough_G & _decided(wins_G, owns_G, rule.decides) & (p_G <= rule.alpha)).tolist():
        yield Trigger(
            phrase=level.words(at),
            hand=asked.hands[top_G[at]],
            wins=share(int(wins_G[at]), int(owns_G[at])),
            hand_share=share(int(owns_G[at]), int(seen_G[at])),
            usual_share=float(usual_G[at]),
            p_value=float(p_G[at]),
            places=tuple(stance_S[own_S & (phrase_S == at)].tolist()),
        )


def _alone(level: Phrases, asked: Question) -> Iterator[Trigger]:
    """The phrases of one length that decide what everybody says."""
    phrase_S, stance_S, won_S = _one_sided(level)
    first_S, size, rule = asked.first_T[stance_S], len(level.words_GN), asked.rule
    seen_G = np.bincount(phrase_S[first_S], minlength=size)
    wins_G = np.bincount(phrase_S[first_S & won_S], minlength=size)
    p_G = asked.chance(wins_G, seen_G)
    enough_G = (seen_G >= rule.fewest_alone) & _decided(wins_G, seen_G, rule.decides_alone)
    for at in np.flatnonzero(enough_G & (p_G <= rule.alpha)).tolist():
        wins, places = share(int(wins_G[at]), int(seen_G[at])), tuple(stance_S[phrase_S == at].tolist())
        yield Trigger(level.words(at), None, wins, Figure(None, 0), 1.0, float(p_G[at]), places)


def _first_of_texts(stances: Sequence[Stance]) -> Bools:
    """Marks one stance of all those on the same two texts, whichever of the two won."""
    seen: set[tuple[str, str]] = set()
    first = []
    for own in stances:
        texts = (min(own.won, own.lost), max(own.won, own.lost))
        first.append(texts not in seen)
        seen.add(texts)
    return np.array(first, bool)


def _one_sided(level: Phrases) -> tuple[Integers, Integers, Bools]:
    """The sightings in stances that have the phrase on one side only: phrase, stance, and whether that side won."""
    stance_S = level.text_S // 2
    code_S = level.phrase_S * (int(stance_S.max(initial=0)) + 1) + stance_S
    twin_S = np.concatenate([code_S[1:] == code_S[:-1], [False]]) if len(code_S) else np.zeros(0, bool)
    alone_S = ~twin_S & ~np.concatenate([[False], twin_S[:-1]]) if len(code_S) else twin_S
    return level.phrase_S[alone_S], stance_S[alone_S], level.text_S[alone_S] % 2 == 0


def _busiest(phrase_S: Integers, hand_S: Integers, phrases: int, hands: int) -> Integers:
    """For each phrase the hand with most of its sightings; -1 where no hand is known."""
    top_G = np.full(phrases, _NOBODY, np.int64)
    known_S = hand_S >= 0
    codes_C, count_C = np.unique(phrase_S[known_S] * max(1, hands) + hand_S[known_S], return_counts=True)
    order_C = np.argsort(count_C, kind="stable")  # the last one written is the busiest
    top_G[codes_C[order_C] // max(1, hands)] = codes_C[order_C] % max(1, hands)
    return top_G


def _decided(wins_G: Integers, seen_G: Integers, decides: float) -> Bools:
    """Whether nearly all, or nearly none, of the sightings won."""
    return np.maximum(wins_G, seen_G - wins_G) >= decides * np.maximum(seen_G, 1)


def _apart(found: Iterable[Trigger]) -> tuple[Trigger, ...]:
    """The triggers without those that stand where a more frequent, or as frequent and longer, one does."""
    kept: list[Trigger] = []
    taken: set[int] = set()
    for own in sorted(found, key=lambda one: (one.hand is None, -len(one.places), -len(one.phrase), one.phrase)):
        if len(taken.intersection(own.places)) < _OVERLAP * len(own.places):
            taken.update(own.places)
            kept.append(own)
    return tuple(sorted(kept, key=lambda one: (one.hand is None, one.p_value, one.phrase)))
