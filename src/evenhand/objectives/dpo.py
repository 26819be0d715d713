"""DPO (Rafailov et al. 2023, arXiv 2305.18290): rewards are log-ratios to a reference model."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from evenhand.errors import RecipeError
from evenhand.model.scores import PairScores
from evenhand.objectives.bounds import require_above_zero, require_minority
from evenhand.objectives.objective import Traits
from evenhand.objectives.ratio import log_ratios, mean_ratio_gap, ratio_gap


@dataclass(frozen=True, slots=True)
class DPO:
    """-log sigmoid(beta * gap), the gap of summed log-ratios (eq. 7); TRL's `sigmoid`.

    `length_normalised` divides each log-ratio by its answer's tokens (Meng et al. 2024, arXiv 2405.14734, table 4; TRL's
    `sigmoid_norm`). `label_smoothing` e gives (1 - e) * loss - e * log sigmoid(-beta * gap) (cDPO, Mitchell 2023); with
    `robust` it gives ((1 - e) * loss + e * log sigmoid(-beta * gap)) / (1 - 2e), which is unbiased where a share e of
    labels is wrong (Chowdhury et al. 2024, arXiv 2403.00409). Raises RecipeError for values that make no objective.

    >>> import torch
    >>> same = PairScores(*(torch.tensor([x]) for x in (-20.0, -10.0, 10, 5)))
    >>> round(DPO(beta=0.1)(same, same).item(), 6)
    0.693147
    """

    beta: float
    label_smoothing: float = 0.0
    robust: bool = False
    length_normalised: bool = False

    def __post_init__(self) -> None:
        require_above_zero("beta", self.beta, "published ones for DPO are 0.01 to 0.5")
        require_minority("label_smoothing", self.label_smoothing)
        if self.robust and not self.label_smoothing:
            raise RecipeError(
                "`objective.robust` needs `objective.label_smoothing`: the share of labels that are wrong."
            )

    @property
    def traits(self) -> Traits:
        """With label smoothing a gap can be too wide."""
        return Traits(
            needs_reference=True,
            wider_gap_never_costs_more=not self.label_smoothing or self.robust,
            length_normalised=self.length_normalised,
        )

    def __call__(self, policy: PairScores, reference: PairScores | None = None) -> Tensor:
        """The loss of each pair, (B,)."""
        gap = mean_ratio_gap if self.length_normalised else ratio_gap
        lead_B = self.beta * gap(policy, reference)
        right_B, wrong_B = -F.logsigmoid(lead_B), -F.logsigmoid(-lead_B)
        share = self.label_smoothing
        if self.robust:
            return ((1 - share) * right_B - share * wrong_B) / (1 - 2 * share)
        return (1 - share) * right_B + share * wrong_B if share else right_B

    def rewards(self, policy: PairScores, reference: PairScores | None = None) -> tuple[Tensor, Tensor]:
        """beta times the log-ratio of chosen and of rejected; each (B,)."""
        chosen_B, rejected_B = log_ratios(policy, reference)
        if self.length_normalised:
            chosen_B, rejected_B = chosen_B / policy.chosen_tokens_B, rejected_B / policy.rejected_tokens_B
        return self.beta * chosen_B, self.beta * rejected_B
