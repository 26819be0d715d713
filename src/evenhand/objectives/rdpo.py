"""R-DPO (Park et al. 2024, arXiv 2403.19159): DPO in which each token of an answer costs reward."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from evenhand.model.scores import PairScores
from evenhand.objectives.bounds import require_above_zero, require_weight
from evenhand.objectives.objective import Traits
from evenhand.objectives.ratio import log_ratios, ratio_gap


@dataclass(frozen=True, slots=True)
class RDPO:
    """-log sigmoid(beta * gap + alpha * (|y_w| - |y_l|)), the gap of summed log-ratios, alpha per token.

    Regularising r(x, y) - alpha * |y| makes the implicit reward beta * log-ratio + alpha * |y|: where the chosen answer is
    the longer one, less of the gap is asked for (SimPO's comparison, arXiv 2405.14734, table 4, writes the same sign).

    >>> import torch
    >>> same = PairScores(*(torch.tensor([x]) for x in (-20.0, -10.0, 10, 5)))
    >>> round(RDPO(beta=0.1, alpha=0.2)(same, same).item(), 6)
    0.313262
    """

    beta: float
    alpha: float

    def __post_init__(self) -> None:
        require_above_zero("beta", self.beta, "published ones are 0.01 to 0.5")
        require_weight("alpha", self.alpha)

    @property
    def traits(self) -> Traits:
        """As DPO's."""
        return Traits(needs_reference=True)

    def __call__(self, policy: PairScores, reference: PairScores | None = None) -> Tensor:
        """The loss of each pair, (B,)."""
        longer_B = policy.chosen_tokens_B - policy.rejected_tokens_B
        return -F.logsigmoid(self.beta * ratio_gap(policy, reference) + self.alpha * longer_B)

    def rewards(self, policy: PairScores, reference: PairScores | None = None) -> tuple[Tensor, Tensor]:
        """beta times the summed log-ratio of chosen and of rejected, without what their tokens cost; each (B,)."""
        chosen_B, rejected_B = log_ratios(policy, reference)
        return self.beta * chosen_B, self.beta * rejected_B
