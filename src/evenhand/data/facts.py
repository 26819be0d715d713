"""All that audit and curation build on, computed once: every judgment without its texts, and where its texts are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evenhand.data.items import Ballot, Identity, ballot_of, label_of
from evenhand.data.marks import Mark
from evenhand.data.measure import Map, Measures, measured
from evenhand.data.schema import Judgment


@dataclass(frozen=True, slots=True)
class Facts:
    """N judgments in the order of reading: `judgments` have the texts, the others what was measured of each."""

    judgments: Sequence[Judgment]
    ballots: tuple[Ballot, ...]
    same: tuple[Identity, ...]
    measures: Measures


def facts_of(judgments: Sequence[Judgment], run: Map = map) -> Facts:
    """Measure all judgments in one pass; `run` says where, `map` means in this process."""
    ballots: list[Ballot] = []

    def noted() -> Iterator[Judgment]:
        for own in judgments:
            ballots.append(ballot_of(own))
            yield own

    measures = measured(noted(), run)
    return Facts(judgments, tuple(ballots), _identities(ballots, measures), measures)


def _identities(ballots: Sequence[Ballot], measures: Measures) -> tuple[Identity, ...]:
    found = []
    for at, (ballot, marks) in enumerate(zip(ballots, measures.marks_N.tolist(), strict=True)):
        a_is_first = bool(marks & Mark.A_IS_FIRST)
        prompt, first, second, item = measures.keys_at(at)
        found.append(Identity(prompt, first, second, item, label_of(ballot.verdict, a_is_first), a_is_first))
    return tuple(found)
