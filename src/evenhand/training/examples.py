"""What an objective learns from, made of encoded pairs: the pairs, their answers one by one, or their liked ones alone."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from evenhand.errors import DataError
from evenhand.model.encode import ABSENT, EncodedPair, EncodedSide
from evenhand.objectives.objective import Examples


def examples_of(pairs: Sequence[EncodedPair], kind: Examples) -> Sequence[EncodedPair]:
    """The examples of that kind in `pairs`, each answer of a row once.

    A demonstration comes from every chosen answer, a vote from every answer. Raises DataError where an objective on
    pairs is given answers without a rival, or none of the answers is liked.
    """
    match kind:
        case "pairs":
            lone = next((pair for pair in pairs if pair.chosen.absent or pair.rejected.absent), None)
            if lone is not None:
                raise DataError(
                    f"row {lone.row} has one answer and no other to compare it with; take `objective: {{name: sft}}` for "
                    "demonstrations, `{name: kto}` for thumbs, or give pairs."
                )
            return pairs
        case "answers":
            found = tuple(_distinct(replace(pair, rejected=ABSENT) for pair in pairs if not pair.chosen.absent))
            if not found:
                raise DataError("none of the answers is a liked one, so there is nothing to imitate.")
            return found
        case "prompts":
            raise AssertionError("a method that draws its answers takes texts, not tokens")
        case "votes":
            return tuple(_distinct(vote for pair in pairs for vote in _votes(pair)))


def _votes(pair: EncodedPair) -> Iterator[EncodedPair]:
    if not pair.chosen.absent:
        yield replace(pair, rejected=ABSENT)
    if not pair.rejected.absent:
        yield replace(pair, chosen=ABSENT)


def _distinct(examples: Iterable[EncodedPair]) -> Iterator[EncodedPair]:
    """Each answer once a row, and a group of its own: nothing has to stay together."""
    seen: set[tuple[int, bool, bytes]] = set()
    for example in examples:
        liked = not example.chosen.absent
        key = (example.row, liked, _only(example).tokens.tobytes())
        if key not in seen:
            seen.add(key)
            yield replace(example, group=f"{example.group}/{len(seen)}")


def _only(example: EncodedPair) -> EncodedSide:
    return example.rejected if example.chosen.absent else example.chosen
