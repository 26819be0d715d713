"""KTO (Ethayarajh et al. 2024, arXiv 2402.01306): answers that were liked or not, without pairs."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from evenhand.model.scores import PairScores
from evenhand.objectives.bounds import require_above_zero
from evenhand.objectives.objective import Traits
from evenhand.objectives.ratio import log_ratios


@dataclass(frozen=True, slots=True)
class KTO:
    """desirable_weight * (1 - sigmoid(beta * (ratio - baseline))) for a thumb up, undesirable_weight * (1 - sigmoid(beta *
    (baseline - ratio))) for a thumb down (eq. 8); the ratio is the summed log-ratio of the answer.

    `baseline` estimates how far the policy is from the reference, in nats and at least 0, with no gradient: the loop
    measures it anew for each step on prompts with another prompt's answer. Weights should make
    desirable_weight * thumbs up / (undesirable_weight * thumbs down) lie between 1 and 3/2. Raises RecipeError for values
    that make no objective.

    >>> import torch
    >>> up = PairScores(*(torch.tensor([x]) for x in (-20.0, 0.0, 10, 0)))
    >>> KTO(beta=0.1)(up, up).item()
    0.5
    """

    beta: float
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    baseline: float = 0.0

    def __post_init__(self) -> None:
        require_above_zero("beta", self.beta, "the paper's is 0.1")
        require_above_zero("desirable_weight", self.desirable_weight, "1 where nothing else is known")
        require_above_zero("undesirable_weight", self.undesirable_weight, "1 where nothing else is known")

    @property
    def traits(self) -> Traits:
        """There is no pair, so there is no gap; a likelier liked answer never costs more."""
        return Traits(examples="votes", needs_reference=True, only_gap_counts=False)

    def with_baseline(self, nats: float) -> "KTO":
        """The same with what the step measured; a negative estimate is one of 0."""
        return replace(self, baseline=max(0.0, nats))

    def __call__(self, policy: PairScores, reference: PairScores | None = None) -> Tensor:
        """The loss of each answer, (B,); an example with both sides is a thumb up and a thumb down, and costs their sum."""
        chosen_B, rejected_B = log_ratios(policy, reference)
        liked_B = 1 - torch.sigmoid(self.beta * (chosen_B - self.baseline))
        disliked_B = 1 - torch.sigmoid(self.beta * (self.baseline - rejected_B))
        return self.desirable_weight * liked_B * (policy.chosen_tokens_B > 0) + (
            self.undesirable_weight * disliked_B * (policy.rejected_tokens_B > 0)
        )

    def rewards(self, policy: PairScores, reference: PairScores | None = None) -> tuple[Tensor, Tensor]:
        """beta times the summed log-ratio; each (B,)."""
        chosen_B, rejected_B = log_ratios(policy, reference)
        return self.beta * chosen_B, self.beta * rejected_B
