"""What the loop asks of a method: a loss for each example, its rewards, and what holds for it.

Shapes: B examples. An example is a pair, or only one of its sides: the absent one has no tokens, and a sum of 0.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor

from evenhand.model.scores import PairScores

# pairs: both sides; answers: the chosen side alone; votes: one side, chosen for a thumb up, rejected for a thumb down;
# prompts: neither, since answers are drawn.
Examples = Literal["pairs", "answers", "votes", "prompts"]


@dataclass(frozen=True, slots=True)
class Traits:
    """What an objective needs, and which properties hold for it; the property suite checks each, true or false.

    `per_token` weighs an example by its scored tokens instead of 1. `wider_gap_never_costs_more` is about one pair whose
    chosen answer becomes likelier while its rejected one stays. `only_gap_counts`: adding the same to the mean (or, where
    not length-normalised, summed) log-probability of both sides changes nothing. `length_normalised`: doubling sums and
    token counts of policy and reference changes nothing. `of_rewards`: the scores are those of a reward model.
    """

    examples: Examples = "pairs"
    needs_reference: bool = False
    per_token: bool = False
    wider_gap_never_costs_more: bool = True
    only_gap_counts: bool = True
    length_normalised: bool = False
    of_rewards: bool = False


class Objective(Protocol):
    """A frozen dataclass of numbers; asking for the loss is calling it."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def traits(self) -> Traits:
        """What holds for these numbers."""
        ...

    def __call__(self, policy: PairScores, reference: PairScores | None = None, /) -> Tensor:
        """The loss of each example, (B,); `reference` scores the same examples, and is there where it is needed."""
        ...

    def rewards(self, policy: PairScores, reference: PairScores | None = None, /) -> tuple[Tensor, Tensor]:
        """The reward of the chosen and of the rejected side, each (B,); of an absent side it means nothing."""
        ...
