"""Log-ratios of policy to reference: how much likelier the policy finds an answer than the reference does, in nats.

Shapes: B pairs.
"""

from torch import Tensor

from evenhand.model.scores import PairScores


def log_ratios(policy: PairScores, reference: PairScores | None) -> tuple[Tensor, Tensor]:
    """Summed log-probability less the reference's, of chosen and of rejected; each (B,)."""
    assert reference is not None, "the loop gives a reference to every objective that needs one"
    return policy.chosen_sum_B - reference.chosen_sum_B, policy.rejected_sum_B - reference.rejected_sum_B


def ratio_gap(policy: PairScores, reference: PairScores | None) -> Tensor:
    """The log-ratio of chosen less that of rejected, nats."""
    chosen_B, rejected_B = log_ratios(policy, reference)
    return chosen_B - rejected_B


def mean_ratio_gap(policy: PairScores, reference: PairScores | None) -> Tensor:
    """The same of means: each log-ratio is divided by its answer's tokens; nats per token."""
    chosen_B, rejected_B = log_ratios(policy, reference)
    return chosen_B / policy.chosen_tokens_B - rejected_B / policy.rejected_tokens_B
