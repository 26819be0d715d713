"""One rank's part of an optimizer step: which micro-batches it computes, and what the whole step has."""

from collections.abc import Sequence
from dataclasses import dataclass

from evenhand.model.encode import EncodedPair
from evenhand.training.plan import micro_batches
from evenhand.training.ranks import Ranks

MicroBatch = list[EncodedPair]


@dataclass(frozen=True, slots=True)
class Share:
    """The micro-batches of this rank, the pairs of the whole step, and the micro-batches that only keep step.

    Where weights are sharded every rank must run as many forwards as any other: `idle` ones weigh nothing.
    """

    micro: Sequence[MicroBatch]
    pairs: int
    ranks: Ranks
    idle: Sequence[MicroBatch] = ()
    chosen_tokens: int = 0  # scored tokens of the chosen sides of the whole step

    @classmethod
    def alone(cls, micro: Sequence[MicroBatch]) -> "Share":
        """The whole step, on the one rank there is."""
        return cls(micro, sum(map(len, micro)), Ranks(), (), sum(map(_chosen_tokens, micro)))

    def weight(self, per_token: bool) -> int:
        """What the sum of all losses is divided by."""
        return self.chosen_tokens if per_token else self.pairs


def share_of(pairs: Sequence[EncodedPair], token_budget: int, ranks: Ranks, in_step: bool) -> Share:
    """This rank's share of a step over `pairs`, balanced by tokens, groups whole; `in_step` where forwards must match."""
    shares = micro_batches(pairs, token_budget, ranks.size)
    own = shares[ranks.rank]
    missing = max(map(len, shares)) - len(own) if in_step else 0
    return Share(own, len(pairs), ranks, [[pairs[0]]] * missing, _chosen_tokens(pairs))


def _chosen_tokens(pairs: Sequence[EncodedPair]) -> int:
    return sum(pair.chosen.scored for pair in pairs)
