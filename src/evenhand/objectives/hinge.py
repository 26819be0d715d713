"""Hinge losses: on log-ratios to a reference, and SLiC-HF (Zhao et al. 2023, arXiv 2305.10425) on log-probabilities."""

from dataclasses import dataclass

import torch
from torch import Tensor

from evenhand.model.scores import PairScores
from evenhand.objectives.bounds import require_above_zero, require_weight
from evenhand.objectives.objective import Traits
from evenhand.objectives.ratio import log_ratios, ratio_gap


@dataclass(frozen=True, slots=True)
class Hinge:
    """relu(1 - beta * gap), the gap of summed log-ratios (Liu et al. 2023, arXiv 2309.06657, eq. 11, beta as theirs).

    TRL's `loss_type="hinge"` of DPOTrainer. Raises RecipeError for values that make no objective.

    >>> import torch
    >>> same = PairScores(*(torch.tensor([x]) for x in (-20.0, -10.0, 10, 5)))
    >>> Hinge(beta=0.1)(same, same).item()
    1.0
    """

    beta: float

    def __post_init__(self) -> None:
        require_above_zero("beta", self.beta, "published ones are 0.05 to 1")

    @property
    def traits(self) -> Traits:
        """As DPO's."""
        return Traits(needs_reference=True)

    def __call__(self, policy: PairScores, reference: PairScores | None = None) -> Tensor:
        """The loss of each pair, (B,)."""
        return torch.relu(1 - self.beta * ratio_gap(policy, reference))

    def rewards(self, policy: PairScores, reference: PairScores | None = None) -> tuple[Tensor, Tensor]:
        """beta times the summed log-ratio of chosen and of rejected; each (B,)."""
        chosen_B, rejected_B = log_ratios(policy, reference)
        return self.beta * chosen_B, self.beta * rejected_B


@dataclass(frozen=True, slots=True)
class SLiC:
    """relu(delta - (sum_chosen - sum_rejected)) + sft_weight * mean negative log-likelihood per chosen token (eq. 2).

    No reference: the paper's second term regularises towards the supervised model's own samples, for which the chosen
    answers stand here, as in SimPO's comparison (arXiv 2405.14734, table 4). `delta` is in nats.

    >>> import torch
    >>> scores = PairScores(*(torch.tensor([x]) for x in (-20.0, -19.0, 10, 5)))
    >>> SLiC(delta=1.0, sft_weight=0.5)(scores).item()
    3.0
    """

    delta: float
    sft_weight: float

    def __post_init__(self) -> None:
        require_above_zero("delta", self.delta, "published ones are 0.5 to 10 nats")
        require_weight("sft_weight", self.sft_weight)

    @property
    def traits(self) -> Traits:
        """With an SFT term the level counts too."""
        return Traits(only_gap_counts=not self.sft_weight)

    def __call__(self, policy: PairScores, _reference: PairScores | None = None) -> Tensor:
        """The loss of each pair, (B,)."""
        loss_B = torch.relu(self.delta - (policy.chosen_sum_B - policy.rejected_sum_B))
        return loss_B - self.sft_weight * policy.chosen_mean_B if self.sft_weight else loss_B

    def rewards(self, policy: PairScores, _reference: PairScores | None = None) -> tuple[Tensor, Tensor]:
        """The summed log-probabilities; each (B,)."""
        return policy.chosen_sum_B, policy.rejected_sum_B
