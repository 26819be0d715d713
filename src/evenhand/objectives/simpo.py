"""SimPO (Meng, Xia, Chen 2024, arXiv 2405.14734): length-normalised rewards, a target margin, no reference model."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from evenhand.errors import RecipeError
from evenhand.model.scores import PairScores
from evenhand.objectives.bounds import require_minority, require_weight
from evenhand.objectives.objective import Traits


@dataclass(frozen=True, slots=True)
class SimPO:
    """-log sigmoid(beta * (gap - margin)), the gap of mean log-probabilities and the margin in nats per token (eq. 6,
    with the paper's gamma = beta * margin).

    `label_smoothing` e gives (1 - e) * loss - e * log sigmoid(-beta * (gap - margin)); `hinge` gives
    relu(1 - beta * (gap - margin)) instead; `sft_weight` adds that weight times the mean negative log-likelihood per
    chosen token. Raises RecipeError for values that make no objective.

    >>> import torch
    >>> at_gap_0 = PairScores(*(torch.tensor([x]) for x in (-20.0, -10.0, 10, 5)))
    >>> round(SimPO(beta=2.0, margin=0.5)(at_gap_0).item(), 6)
    1.313262
    """

    beta: float
    margin: float
    label_smoothing: float = 0.0
    hinge: bool = False
    sft_weight: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise RecipeError(
                f"`objective.beta` is {self.beta}; SimPO needs a beta above 0, published ones are 2 to 10."
            )
        if not math.isfinite(self.margin):
            raise RecipeError(
                f"`objective.margin` is {self.margin}; it must be a number, published ones are 0.1 to 0.8."
            )
        require_minority("label_smoothing", self.label_smoothing)
        if self.hinge and self.label_smoothing:
            raise RecipeError("`objective.hinge` has no label smoothing; set one of the two.")
        require_weight("sft_weight", self.sft_weight)

    @classmethod
    def from_paper(cls, beta: float, gamma: float) -> "SimPO":
        """The paper and TRL state the margin in reward units: gamma = beta * margin.

        >>> SimPO.from_paper(beta=2.5, gamma=1.375).margin
        0.55
        """
        return cls(beta=beta, margin=gamma / beta if beta else math.nan)

    @property
    def paper_gamma(self) -> float:
        """The margin in reward units, as the paper and TRL's `simpo_gamma` state it."""
        return self.beta * self.margin

    @property
    def traits(self) -> Traits:
        """With label smoothing a gap can be too wide; with an SFT term the level counts too."""
        return Traits(
            wider_gap_never_costs_more=not self.label_smoothing,
            only_gap_counts=not self.sft_weight,
            length_normalised=True,
        )

    def __call__(self, policy: PairScores, _reference: PairScores | None = None) -> Tensor:
        """The loss of each pair, (B,)."""
        lead_B = self.beta * (policy.mean_gap_B - self.margin)
        loss_B = torch.relu(1 - lead_B) if self.hinge else -F.logsigmoid(lead_B)
        if self.label_smoothing:
            loss_B = (1 - self.label_smoothing) * loss_B - self.label_smoothing * F.logsigmoid(-lead_B)
        if self.sft_weight:
            loss_B = loss_B - self.sft_weight * policy.chosen_mean_B
        return loss_B

    def rewards(self, policy: PairScores, _reference: PairScores | None = None) -> tuple[Tensor, Tensor]:
        """beta times mean log-probability of chosen and of rejected, without the margin; each (B,)."""
        return self.beta * policy.chosen_mean_B, self.beta * policy.rejected_mean_B
