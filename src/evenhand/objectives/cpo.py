"""CPO (Xu et al. 2024, arXiv 2401.08417): DPO with a uniform reference, and a term that keeps chosen answers likely."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from evenhand.model.scores import PairScores
from evenhand.objectives.bounds import require_above_zero, require_minority, require_weight
from evenhand.objectives.objective import Traits


@dataclass(frozen=True, slots=True)
class CPO:
    """-log sigmoid(beta * (sum_chosen - sum_rejected)) + sft_weight * mean negative log-likelihood per chosen token (eq. 5).

    `sft_weight` is TRL's `cpo_alpha`, 1.0 in the paper. CPO-SimPO is SimPO with an `sft_weight`. `label_smoothing` as in
    DPO. Raises RecipeError for values that make no objective.

    >>> import torch
    >>> scores = PairScores(*(torch.tensor([x]) for x in (-20.0, -20.0, 10, 5)))
    >>> round(CPO(beta=0.1, sft_weight=1.0)(scores).item(), 6)
    2.693147
    """

    beta: float
    sft_weight: float
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        require_above_zero("beta", self.beta, "the paper's is 0.1")
        require_weight("sft_weight", self.sft_weight)
        require_minority("label_smoothing", self.label_smoothing)

    @property
    def traits(self) -> Traits:
        """With label smoothing a gap can be too wide; with an SFT term the level counts too."""
        return Traits(wider_gap_never_costs_more=not self.label_smoothing, only_gap_counts=not self.sft_weight)

    def __call__(self, policy: PairScores, _reference: PairScores | None = None) -> Tensor:
        """The loss of each pair, (B,)."""
        lead_B = self.beta * (policy.chosen_sum_B - policy.rejected_sum_B)
        loss_B = -F.logsigmoid(lead_B)
        if self.label_smoothing:
            loss_B = (1 - self.label_smoothing) * loss_B - self.label_smoothing * F.logsigmoid(-lead_B)
        return loss_B - self.sft_weight * policy.chosen_mean_B if self.sft_weight else loss_B

    def rewards(self, policy: PairScores, _reference: PairScores | None = None) -> tuple[Tensor, Tensor]:
        """beta times the summed log-probability of chosen and of rejected; each (B,)."""
        return self.beta * policy.chosen_sum_B, self.beta * policy.rejected_sum_B
