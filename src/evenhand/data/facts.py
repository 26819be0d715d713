"""All that audit and curation build on, computed once: every judgment without its texts, and where its texts are."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from evenhand.data.items import Ballot, Identity, ballot_of, label_of
from evenhand.data.marks import Mark
from evenhand.data.measure import Map, Measures, measured
from evenhand.data.schema import Judgment

Tell = Callable[[str, int, int], None]
"""Hears of progress: what is done, how much of it, and of how much."""

_SOMEBODY_WAITS = 20_000
_TOLD_EVERY = 1024


def silent(what: str, done: int, total: int) -> None:
    """Tell nobody."""
    del what, done, total


@dataclass(frozen=True, slots=True)
class Facts:
    """N judgments in the order of reading: `judgments` have the texts, the others what was measured of each."""

    judgments: Sequence[Judgment]
    ballots: tuple[Ballot, ...]
    same: tuple[Identity, ...]
    measures: Measures


def facts_of(judgments: Sequence[Judgment], run: Map = map, tell: Tell = silent) -> Facts:
    """Measure all judgments in one pass; `run` says where, `map` means in this process.

    `tell` hears how many are on their way, and of how many, where there are so many that somebody waits.
    """
    ballots: list[Ballot] = []
    total = len(judgments)

    def noted() -> Iterator[Judgment]:
        for own in judgments:
            ballots.append(ballot_of(own))
            yield own
            if total >= _SOMEBODY_WAITS and (len(ballots) % _TOLD_EVERY == 0 or len(ballots) == total):
                tell("measuring", len(ballots), total)

    measures = measured(noted(), run)
    return Facts(judgments, tuple(ballots), _identities(ballots, measures), measures)


def _identities(ballots: Sequence[Ballot], measures: Measures) -> tuple[Identity, ...]:
    found = []
    for at, (ballot, marks) in enumerate(zip(ballots, measures.marks_N.tolist(), strict=True)):
        a_is_first = bool(marks & Mark.A_IS_FIRST)
        prompt, first, second, item = measures.keys_at(at)
        found.append(Identity(prompt, first, second, item, label_of(ballot.verdict, a_is_first), a_is_first))
    return tuple(found)
