"""What a step makes smaller: an objective, and the reference that it compares with, if any."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from evenhand.errors import RecipeError
from evenhand.model.encode import EncodedPair
from evenhand.model.forward import Policy
from evenhand.model.pack import PackedBatch, pack
from evenhand.model.reference import Reference
from evenhand.model.scores import PairScores
from evenhand.objectives.objective import Objective


@dataclass(frozen=True, slots=True)
class Judged:
    """A micro-batch as the policy and the reference see it, and what it costs; `loss_B` has the gradient."""

    packed: PackedBatch
    policy: PairScores
    reference: PairScores | None
    loss_B: Tensor


@dataclass(frozen=True, slots=True)
class Goal:
    """An objective with its reference; raises RecipeError where it needs one and has none."""

    objective: Objective
    reference: Reference | None = None

    def __post_init__(self) -> None:
        if self.objective.traits.needs_reference and self.reference is None:
            raise RecipeError(
                f"{type(self.objective).__name__} compares with a reference and none was given; pass one, such as "
                "AdapterOff(policy)."
            )

    def judged(self, policy: Policy, batch: Sequence[EncodedPair]) -> Judged:
        """One forward of the reference, where it takes one, and one of the policy."""
        packed = pack(batch)
        # The reference first: what it computes with is free again before the policy's graph is built.
        reference = self.reference(batch, packed) if self.reference and self.objective.traits.needs_reference else None
        scores: PairScores = policy(packed)
        return Judged(packed, scores, reference, self.objective(scores, reference))

    def aiming(self, objective: Objective) -> "Goal":
        """The same reference with another objective."""
        return replace(self, objective=objective)
