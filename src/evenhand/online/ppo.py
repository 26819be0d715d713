"""PPO's losses (Schulman et al. 2017, arXiv 1707.06347) on the tokens of sampled replies.

Shapes: E tokens of all replies end to end.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Clips:
    """How far one step may go: `ratio` is the paper's epsilon (0.2 there), `value` that of the value function, whose
    loss has the weight `value_weight` (both 0.2 and 0.1 in OpenAI's lm-human-preferences)."""

    ratio: float
    value: float
    value_weight: float


@dataclass(frozen=True, slots=True)
class Tokens:
    """What was known of each token when its reply was sampled."""

    log_prob_E: Tensor
    value_E: Tensor
    advantage_E: Tensor
    return_E: Tensor

    def at(self, place_M: Tensor) -> "Tokens":
        """Some of the tokens."""
        parts = (self.log_prob_E, self.value_E, self.advantage_E, self.return_E)
        return Tokens(*(part[place_M] for part in parts))


@dataclass(frozen=True, slots=True)
class Losses:
    """Sums over tokens, `total` with a gradient; the others say how the step went.

    `kl` is Schulman's estimate (ratio - 1) - log ratio of how far the policy has moved from the one that sampled.
    """

    total: Tensor
    policy: Tensor
    value: Tensor
    clipped: Tensor
    value_clipped: Tensor
    kl: Tensor

    def sums(self) -> Tensor:
        """All but the total, without a gradient, in float64."""
        parts = (self.policy, self.value, self.clipped, self.value_clipped, self.kl)
        return torch.stack([part.detach().double() for part in parts]).cpu()


def losses(log_prob_E: Tensor, value_E: Tensor, before: Tokens, clips: Clips) -> Losses:
    """The clipped objectives of tokens whose log-probabilities and values are now `log_prob_E` and `value_E`.

    The policy's is the paper's eq. 7. The value's is half the larger of two squared errors, one of them with the value
    held within `clips.value` of what it was (as in OpenAI's baselines; Huang et al. 2022, "The 37 implementation
    details of PPO", detail 9).
    """
    log_ratio_E = log_prob_E - before.log_prob_E
    ratio_E = log_ratio_E.exp()
    held_E = ratio_E.clamp(1 - clips.ratio, 1 + clips.ratio)
    plain_E, clipped_E = -before.advantage_E * ratio_E, -before.advantage_E * held_E
    policy = torch.maximum(plain_E, clipped_E).sum()
    near_E = before.value_E + (value_E - before.value_E).clamp(-clips.value, clips.value)
    error_E, near_error_E = (value_E - before.return_E) ** 2, (near_E - before.return_E) ** 2
    value = 0.5 * torch.maximum(error_E, near_error_E).sum()
    return Losses(
        total=policy + clips.value_weight * value,
        policy=policy,
        value=value,
        clipped=(clipped_E > plain_E).sum(),
        value_clipped=(near_error_E > error_E).sum(),
        kl=(ratio_E - 1 - log_ratio_E).sum(),
    )


def means(sums: Tensor, tokens: int) -> dict[str, Any]:
    """What a step tells, per token: the sums of `Losses.sums` divided."""
    names = ("policy_loss", "value_loss", "clip_fraction", "value_clip_fraction", "policy_kl")
    return dict(zip(names, (sums / tokens).tolist()))
