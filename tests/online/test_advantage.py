"""Advantages against the sum that defines them, whitening and token rewards by hand."""

import itertools

import numpy as np
import pytest
import torch

from evenhand.online.advantage import advantages, explained_variance, token_rewards, whitened


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.99, 0.0)])
def test_advantages_are_discounted_sums_of_surprises(gamma: float, lam: float) -> None:
    draw = np.random.default_rng(0)
    starts = [0, 4, 5, 11]
    reward, value = draw.normal(size=11), draw.normal(size=11)
    found, returns = advantages(torch.tensor(reward), torch.tensor(value), starts, (gamma, lam))
    for start, end in itertools.pairwise(starts):
        after = np.append(value[start + 1 : end], 0.0)
        surprise = reward[start:end] + gamma * after - value[start:end]
        for t in range(end - start):
            wanted = sum((gamma * lam) ** k * surprise[t + k] for k in range(end - start - t))
            assert found[start + t].item() == pytest.approx(wanted, rel=1e-12)
    assert torch.allclose(returns, found + torch.tensor(value))


def test_with_lambda_one_a_return_is_all_that_follows() -> None:
    reward = torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)
    _, returns = advantages(reward, torch.tensor([0.3, -0.2, 0.9, 5.0], dtype=torch.float64), [0, 3, 4], (1.0, 1.0))
    assert returns.tolist() == pytest.approx([7.0, 6.0, 4.0, 8.0])


def test_a_reply_is_paid_on_its_last_token_and_pays_for_its_distance_on_each() -> None:
    log_ratio = torch.tensor([0.5, -0.25, 1.0, 0.0])
    found = token_rewards(torch.tensor([2.0, 3.0]), log_ratio, [0, 3, 4], kl_weight=0.1)
    assert found.tolist() == pytest.approx([-0.05, 0.025, 1.9, 3.0])


def test_whitening_keeps_the_mean_only_where_asked() -> None:
    values = torch.tensor([1.0, 3.0, 5.0, 11.0], dtype=torch.float64)
    white = whitened(values)
    assert (white.mean().item(), white.var(correction=0).item()) == pytest.approx((0.0, 1.0), abs=1e-6)
    kept = whitened(values, shift=False)
    assert (kept.mean().item(), kept.var(correction=0).item()) == pytest.approx((5.0, 1.0), abs=1e-6)


def test_explained_variance_of_right_of_constant_and_of_wrong_values() -> None:
    returns = torch.tensor([0.0, 1.0, 2.0, 3.0])
    assert explained_variance(returns + 5, returns) == pytest.approx(1.0)
    assert explained_variance(torch.zeros(4), returns) == pytest.approx(0.0)
    assert explained_variance(-returns, returns) == pytest.approx(-3.0)
    assert explained_variance(returns, torch.ones(4)) is None
