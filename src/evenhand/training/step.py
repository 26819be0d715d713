"""One optimizer step: the loss over its pairs, its gradient, and the guard that stands before the optimizer.

Shapes: B pairs, M things that are told as means.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from evenhand.errors import NonFiniteError
from evenhand.model.encode import EncodedPair
from evenhand.model.forward import Policy
from evenhand.training.goal import Goal, Judged
from evenhand.training.memory import or_too_large
from evenhand.training.optim import MasterAdamW
from evenhand.training.share import Share

_MEANS = (
    *("accuracy", "gap", "chosen_mean", "rejected_mean", "chosen_sum", "rejected_sum"),
    *("chosen_reward", "rejected_reward", "reward_accuracy"),
)
# The sum of losses, then a sum and a count for each of the means.
_TOLD = 1 + 2 * len(_MEANS)


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step saw on all ranks, as means over the pairs that have what is meant; None where none has.

    `accuracy` and `gap` are of mean log-probabilities, `reward_accuracy` is of the objective's rewards. The gradient's
    norm is the one before scaling down.
    """

    RECORDED: ClassVar[tuple[str, ...]] = ("loss", "accuracy", "gap", "chosen_mean", "rejected_mean", "gradient_norm")
    RECORDED_REWARDS: ClassVar[tuple[str, ...]] = ("chosen_reward", "rejected_reward", "reward_accuracy")

    pairs: int
    tokens: int
    loss: float
    accuracy: float | None
    gap: float | None
    chosen_mean: float | None
    rejected_mean: float | None
    chosen_sum: float | None
    rejected_sum: float | None
    chosen_reward: float | None
    rejected_reward: float | None
    reward_accuracy: float | None
    gradient_norm: float


def train_step(
    policy: Policy, goal: Goal, optimizer: MasterAdamW, share: Share, rates: tuple[float, float]
) -> StepResult:
    """Loss = sum over pairs / pairs of the step (or / scored tokens, for an objective that weighs by them), so that no
    cut into micro-batches or ranks changes the gradient.

    `rates` are the learning rate and the largest gradient norm. Raises NonFiniteError, and StepTooLargeError where
    memory runs out, before the optimizer moves, on every rank alike.
    """
    sums, broken = or_too_large(
        lambda: _backward(policy, goal, share, optimizer.loss_scale), share.ranks, optimizer.sharded
    )
    _refuse_non_finite("loss", broken, share)
    tokens, loss, *told = share.ranks.add(sums).tolist()
    rate, largest = rates
    optimizer.reduce()
    norm = optimizer.gradient_norm(largest)
    if not torch.isfinite(torch.tensor(norm)):
        _refuse_non_finite("gradient", [pair for batch in share.micro for pair in batch], share)
    if name := optimizer.broken_master():
        raise NonFiniteError(f"the weight {name} is not finite; the last checkpoint is good.", data_at_fault=False)
    optimizer.step(rate)
    means = (total / count if count else None for total, count in zip(told[::2], told[1::2]))
    weight = share.weight(goal.objective.traits.per_token)
    return StepResult(share.pairs, int(tokens), loss / weight, **dict(zip(_MEANS, means)), gradient_norm=norm)


def _backward(policy: Policy, goal: Goal, share: Share, scale: float) -> tuple[Tensor, list[EncodedPair]]:
    """Gradients of this rank's share; tokens, loss and what is told as means, and the pairs without a finite loss."""
    weight = share.weight(goal.objective.traits.per_token)
    tokens = 0
    sums: list[Tensor] = []
    finite: list[Tensor] = []
    for batch in share.micro:
        judged = goal.judged(policy, batch)
        (judged.loss_B.sum() / (weight / scale)).backward()
        tokens += judged.packed.tokens
        sums.append(_sums(goal, judged))
        finite.append(torch.isfinite(judged.loss_B.detach()))
    for batch in share.idle:
        (goal.judged(policy, batch).loss_B.sum() * 0.0).backward()
    # Read once a step: each value that is read makes the host wait for the device.
    found = torch.stack(sums).sum(0).tolist() if sums else [0.0] * _TOLD
    flags = torch.cat(finite).tolist() if finite else []
    broken = [pair for pair, good in zip((pair for batch in share.micro for pair in batch), flags) if not good]
    return torch.tensor([float(tokens), *found], dtype=torch.float64), broken


@torch.no_grad()
def _sums(goal: Goal, judged: Judged) -> Tensor:
    """The sum of losses; then, for each of `_MEANS`, the sum over the pairs that have it, and how many have."""
    scores, reference = judged.policy.detached(), judged.reference
    chosen_B, rejected_B = scores.chosen_tokens_B > 0, scores.rejected_tokens_B > 0
    both_B = chosen_B & rejected_B
    chosen_reward_B, rejected_reward_B = goal.objective.rewards(scores, reference)
    values = (
        (_wins(scores.mean_gap_B), both_B),
        (scores.mean_gap_B, both_B),
        (scores.chosen_mean_B, chosen_B),
        (scores.rejected_mean_B, rejected_B),
        (scores.chosen_sum_B, chosen_B),
        (scores.rejected_sum_B, rejected_B),
        (chosen_reward_B, chosen_B),
        (rejected_reward_B, rejected_B),
        (_wins(chosen_reward_B - rejected_reward_B), both_B),
    )
    told = [part.double().sum() for value_B, has_B in values for part in (value_B.where(has_B, 0.0), has_B)]
    return torch.stack([judged.loss_B.double().sum(), *told])


def _wins(gap_B: Tensor) -> Tensor:
    """1 for a gap above 0, one half for none."""
    return (gap_B > 0).double() + 0.5 * (gap_B == 0).double()


def _refuse_non_finite(what: str, broken: Sequence[EncodedPair], share: Share) -> None:
    """Raise NonFiniteError that names the rows of all ranks, where there are any."""
    named = [name for names in share.ranks.gather([f"row {pair.row} ({pair.id})" for pair in broken]) for name in names]
    if not named:
        return
    shown = ", ".join(named[:10]) if len(named) <= 10 else f"{', '.join(named[:10])} and {len(named) - 10} more"
    rows = f"; it came from {shown}." if what == "gradient" else f" for {shown}; nothing was changed by this step."
    raise NonFiniteError(f"the {what} is not finite{rows}")
