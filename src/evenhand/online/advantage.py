"""What each token of a reply was worth: rewards per token, generalised advantage estimation, whitening.

Shapes: E tokens of all replies end to end, S replies; `starts_S1` has where each reply starts, and the end.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor


def token_rewards(score_S: Tensor, log_ratio_E: Tensor, starts_S1: Sequence[int], kl_weight: float) -> Tensor:
    """The reward of each token, (E,): minus `kl_weight` times its log-ratio to the reference, and the reply's own score
    on its last token (Ziegler et al. 2019, arXiv 1909.08593, eq. 2, spread over the tokens)."""
    reward_E = -kl_weight * log_ratio_E
    last_S = torch.tensor(starts_S1[1:], device=reward_E.device) - 1
    return reward_E.index_add(0, last_S, score_S.to(reward_E))


def advantages(
    reward_E: Tensor, value_E: Tensor, starts_S1: Sequence[int], discounts: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Advantages and returns of each token, each (E,), by generalised advantage estimation (Schulman et al. 2015, arXiv
    1506.02438, eq. 16); `discounts` are gamma and lambda. Nothing follows a reply's last token.

    >>> advantages(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5]), [0, 2], (1.0, 0.5))
    (tensor([0.2500, 0.5000]), tensor([0.7500, 1.0000]))
    """
    gamma, lam = discounts
    advantage_E = torch.zeros_like(reward_E)
    for start, end in itertools.pairwise(starts_S1):
        following = torch.zeros((), dtype=reward_E.dtype, device=reward_E.device)
        next_value = torch.zeros_like(following)
        for t in range(end - 1, start - 1, -1):
            surprise = reward_E[t] + gamma * next_value - value_E[t]
            following = surprise + gamma * lam * following
            advantage_E[t], next_value = following, value_E[t]
    return advantage_E, advantage_E + value_E


def whitened(value_E: Tensor, shift: bool = True) -> Tensor:
    """`value_E` with variance 1, and with mean 0 unless `shift` is off, as OpenAI's code does for rewards (Huang et al.
    2024, "The N implementation details of RLHF with PPO", detail "reward and advantage whitening")."""
    mean, variance = value_E.mean(), value_E.var(correction=0)
    scaled_E = (value_E - mean) * torch.rsqrt(variance + 1e-8)
    return scaled_E if shift else scaled_E + mean


def explained_variance(value_E: Tensor, return_E: Tensor) -> float | None:
    """The share of the returns' variance that the values told; below 0 they are worse than a constant, None without
    variance."""
    variance = float(return_E.var(correction=0))
    return None if variance == 0 else 1 - float((return_E - value_E).var(correction=0)) / variance
