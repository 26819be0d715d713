"""ORPO (Hong et al. 2024, arXiv 2403.07691): supervised fine-tuning plus the odds of chosen over rejected."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from evenhand.model.scores import PairScores
from evenhand.objectives.bounds import require_above_zero
from evenhand.objectives.objective import Traits


@dataclass(frozen=True, slots=True)
class ORPO:
    """mean negative log-likelihood per chosen token - beta * log sigmoid(log odds ratio) (eq. 6 and 7; their lambda is beta).

    odds(y) = p / (1 - p) with log p the mean log-probability. TRL's ORPO takes its likelihood over prompt and answer;
    here the prompt is never scored. Raises RecipeError for a beta that makes no objective.

    >>> import torch
    >>> scores = PairScores(*(torch.tensor([x]) for x in (-20.0, -10.0, 10, 5)))
    >>> round(ORPO(beta=0.1)(scores).item(), 6)
    2.069315
    """

    beta: float

    def __post_init__(self) -> None:
        require_above_zero("beta", self.beta, "the paper's are 0.1 to 0.5")

    @property
    def traits(self) -> Traits:
        """Odds are no difference of log-probabilities, so the level counts."""
        return Traits(only_gap_counts=False, length_normalised=True)

    def __call__(self, policy: PairScores, _reference: PairScores | None = None) -> Tensor:
        """The loss of each pair, (B,)."""
        ratio_B = _log_odds(policy.chosen_mean_B) - _log_odds(policy.rejected_mean_B)
        return -policy.chosen_mean_B - self.beta * F.logsigmoid(ratio_B)

    def rewards(self, policy: PairScores, _reference: PairScores | None = None) -> tuple[Tensor, Tensor]:
        """beta times the mean log-probability of chosen and of rejected, as TRL logs them; each (B,)."""
        return self.beta * policy.chosen_mean_B, self.beta * policy.rejected_mean_B


def _log_odds(log_p_B: Tensor) -> Tensor:
    """log(p / (1 - p)). A sure answer has infinite odds; its log-probability is held just below 0, so that they stay finite."""
    log_p_B = log_p_B.clamp(max=-torch.finfo(log_p_B.dtype).eps)
    return log_p_B - torch.log(-torch.expm1(log_p_B))
