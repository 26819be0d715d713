"""The loss of a reward model: the better answer's reward above the worse one's (Bradley and Terry 1952)."""

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from evenhand.errors import RecipeError
from evenhand.model.scores import PairScores
from evenhand.objectives.bounds import require_weight
from evenhand.objectives.objective import Traits


@dataclass(frozen=True, slots=True)
class BradleyTerry:
    """-log sigmoid(gap - margin + length_penalty * (chosen tokens - rejected tokens)), the gap of two rewards.

    `margin` is how far apart the rewards should be (Touvron et al. 2023, arXiv 2307.09288, eq. 2). `length_penalty` is
    the reward per token that people are taken to give for length alone: it stands in the loss and not in the reward, so
    that the reward need not learn it (as Park et al. 2024, arXiv 2403.19159, do for DPO). `center` adds that weight times
    the squared sum of both rewards, which keeps their mean near zero (Eisenstein et al. 2023, arXiv 2312.09244, eq. 3).
    Raises RecipeError for values that make no loss.

    >>> import torch
    >>> equal = PairScores(*(torch.tensor([x]) for x in (6.0, 3.0, 4, 2)))  # rewards of 1.5, times their tokens
    >>> round(BradleyTerry()(equal).item(), 6)
    0.693147
    """

    margin: float = 0.0
    length_penalty: float = 0.0
    center: float = 0.0

    def __post_init__(self) -> None:
        for name in ("margin", "length_penalty"):
            if not math.isfinite(getattr(self, name)):
                raise RecipeError(f"`objective.{name}` is {getattr(self, name)}; it must be a number, such as 0.")
        require_weight("center", self.center)

    @property
    def beta(self) -> float:
        """Rewards are told as they are."""
        return 1.0

    @property
    def traits(self) -> Traits:
        """A length penalty looks at tokens, and centring at the level of rewards."""
        return Traits(
            wider_gap_never_costs_more=not self.center,
            only_gap_counts=not self.center and not self.length_penalty,
            length_normalised=not self.length_penalty,
            of_rewards=True,
        )

    def __call__(self, rewards: PairScores, _reference: PairScores | None = None) -> Tensor:
        """The loss of each pair, (B,); a reward is the mean of its side."""
        gap_B = rewards.mean_gap_B
        longer_B = (rewards.chosen_tokens_B - rewards.rejected_tokens_B).to(gap_B)
        loss_B = -F.logsigmoid(gap_B - self.margin + self.length_penalty * longer_B)
        if self.center:
            loss_B = loss_B + self.center * (rewards.chosen_mean_B + rewards.rejected_mean_B) ** 2
        return loss_B

    def rewards(self, rewards: PairScores, _reference: PairScores | None = None) -> tuple[Tensor, Tensor]:
        """The rewards of chosen and rejected answers, each (B,)."""
        return rewards.chosen_mean_B, rewards.rejected_mean_B
