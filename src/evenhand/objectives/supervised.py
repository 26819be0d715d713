"""Supervised fine-tuning: the likelihood of answers, and of nothing else."""

from dataclasses import dataclass

from torch import Tensor

from evenhand.model.scores import PairScores
from evenhand.objectives.objective import Traits


@dataclass(frozen=True, slots=True)
class Supervised:
    """-log p(answer | prompt): over a step it is the mean per scored token, as TRL's SFTTrainer takes it.

    There is no loser. The prompt is never scored.
    """

    @property
    def traits(self) -> Traits:
        """Answers alone, each weighed by its tokens."""
        return Traits(examples="answers", per_token=True, only_gap_counts=False)

    def __call__(self, policy: PairScores, _reference: PairScores | None = None) -> Tensor:
        """The summed negative log-likelihood of each answer, (B,), to be divided by the answers' tokens."""
        return -policy.chosen_sum_B

    def rewards(self, policy: PairScores, _reference: PairScores | None = None) -> tuple[Tensor, Tensor]:
        """The mean log-probabilities; each (B,)."""
        return policy.chosen_mean_B, policy.rejected_mean_B
