"""One optimizer step: the loss over its pairs, its gradient, and the guard that stands before the optimizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from evenhand.errors import NonFiniteError, StepTooLargeError
from evenhand.model.encode import EncodedPair
from evenhand.model.forward import Policy
from evenhand.model.pack import pack
from evenhand.model.scores import PairScores
from evenhand.objectives.simpo import SimPO
from evenhand.training.memory import is_out_of_memory
from evenhand.training.optim import MasterAdamW
from evenhand.training.share import Share

_MEANS = ("loss", "accuracy", "gap", "chosen_mean", "rejected_mean")


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step saw on all ranks, as means over its pairs; the gradient's norm is the one before scaling down."""

    RECORDED: ClassVar[tuple[str, ...]] = (*_MEANS, "gradient_norm")

    pairs: int
    tokens: int
    loss: float
    accuracy: float
    gap: float
    chosen_mean: float
    rejected_mean: float
    gradient_norm: float


def train_step(
    policy: Policy, objective: SimPO, optimizer: MasterAdamW, share: Share, rates: tuple[float, float]
) -> StepResult:
    """Loss = sum over pairs / pairs of the step, so that no cut into micro-batches or ranks changes the gradient.

    `rates` are the learning rate and the largest gradient norm. Raises NonFiniteError, and StepTooLargeError where
    memory runs out, before the optimizer moves, on
    every rank alike.
    """
    broken: list[EncodedPair] = []
    sums, ran_out = torch.empty(0), ""
    try:
        sums, broken = _backward(policy, objective, share, optimizer.loss_scale)
    except (RuntimeError, MemoryError) as error:
        if optimizer.sharded or not is_out_of_memory(error):  # shards wait for each other, and cannot turn back
            raise
        ran_out = str(error)
    if share.ranks.largest(bool(ran_out)):  # outside of the block, whose error holds on to all that was computed
        raise StepTooLargeError(f"memory ran out during a step: {ran_out or 'on another rank'}")
    _refuse_non_finite("loss", broken, share)
    tokens, *means = (share.ranks.add(sums) / torch.tensor([1.0, *[share.pairs] * len(_MEANS)])).tolist()
    rate, largest = rates
    optimizer.reduce()
    norm = optimizer.gradient_norm(largest)
    if not torch.isfinite(torch.tensor(norm)):
        _refuse_non_finite("gradient", [pair for batch in share.micro for pair in batch], share)
    if name := optimizer.broken_master():
        raise NonFiniteError(f"the weight {name} is not finite; the last checkpoint is good.", data_at_fault=False)
    optimizer.step(rate)
    return StepResult(share.pairs, int(tokens), **dict(zip(_MEANS, means)), gradient_norm=norm)


def _backward(policy: Policy, objective: SimPO, share: Share, scale: float) -> tuple[Tensor, list[EncodedPair]]:
    """Gradients of this rank's share; tokens and the sums of what is told as means, and the pairs without a finite loss."""
    sums = torch.zeros(1 + len(_MEANS), dtype=torch.float64)
    broken: list[EncodedPair] = []
    for batch in share.micro:
        packed = pack(batch)
        scores = policy(packed)
        loss_B = objective(scores)
        (loss_B.sum() / (share.pairs / scale)).backward()
        sums += torch.cat([torch.tensor([float(packed.tokens)], dtype=torch.float64), _sums(scores, loss_B)])
        broken += [pair for pair, finite in zip(batch, torch.isfinite(loss_B.detach()).tolist()) if not finite]
    for batch in share.idle:
        (objective(policy(pack(batch))).sum() * 0.0).backward()
    return sums, broken


def _sums(scores: PairScores, loss_B: Tensor) -> Tensor:
    """The sums over pairs of `_MEANS`, in that order."""
    gap_B = scores.mean_gap_B.detach()
    accuracy_B = (gap_B > 0).double() + 0.5 * (gap_B == 0).double()
    values = (loss_B, accuracy_B, gap_B, scores.chosen_mean_B, scores.rejected_mean_B)
    return torch.stack([value.detach().double().sum() for value in values]).cpu()


def _refuse_non_finite(what: str, broken: Sequence[EncodedPair], share: Share) -> None:
    """Raise NonFiniteError that names the rows of all ranks, where there are any."""
    named = [name for names in share.ranks.gather([f"row {pair.row} ({pair.id})" for pair in broken]) for name in names]
    if not named:
        return
    shown = ", ".join(named[:10]) if len(named) <= 10 else f"{', '.join(named[:10])} and {len(named) - 10} more"
    rows = f"; it came from {shown}." if what == "gradient" else f" for {shown}; nothing was changed by this step."
    raise NonFiniteError(f"the {what} is not finite{rows}")
