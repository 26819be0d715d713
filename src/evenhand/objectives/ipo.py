"""IPO (Azar et al. 2023, arXiv 2310.12036): the gap of log-ratios is drawn to a target, and not past it."""

from dataclasses import dataclass

from torch import Tensor

from evenhand.model.scores import PairScores
from evenhand.objectives.bounds import require_above_zero
from evenhand.objectives.objective import Traits
from evenhand.objectives.ratio import log_ratios, mean_ratio_gap, ratio_gap


@dataclass(frozen=True, slots=True)
class IPO:
    """(gap - 1 / (2 * beta))^2 (eq. 17, whose tau is beta here), the gap of log-ratios per token.

    The paper writes sums; its authors told TRL that their results are of the normalised form, which is the default here
    and in TRL. `length_normalised: false` takes the sums. Raises RecipeError for a beta that makes no target.

    >>> import torch
    >>> same = PairScores(*(torch.tensor([x]) for x in (-20.0, -10.0, 10, 5)))
    >>> IPO(beta=0.5)(same, same).item()
    1.0
    """

    beta: float
    length_normalised: bool = True

    def __post_init__(self) -> None:
        require_above_zero("beta", self.beta, "published ones for IPO are 0.01 to 1")

    @property
    def traits(self) -> Traits:
        """A gap past the target costs as much as one short of it."""
        return Traits(needs_reference=True, wider_gap_never_costs_more=False, length_normalised=self.length_normalised)

    def __call__(self, policy: PairScores, reference: PairScores | None = None) -> Tensor:
        """The loss of each pair, (B,)."""
        gap = mean_ratio_gap if self.length_normalised else ratio_gap
        return (gap(policy, reference) - 1 / (2 * self.beta)) ** 2

    def rewards(self, policy: PairScores, reference: PairScores | None = None) -> tuple[Tensor, Tensor]:
        """beta times the summed log-ratio of chosen and of rejected, as TRL logs them; each (B,)."""
        chosen_B, rejected_B = log_ratios(policy, reference)
        return self.beta * chosen_B, self.beta * rejected_B
