"""One optimizer step: the loss over its pairs, its gradient, and the guard that stands before the optimizer."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evenhand.errors import NonFiniteError
from evenhand.model.encode import EncodedPair
from evenhand.model.forward import Policy
from evenhand.model.pack import pack
from evenhand.model.scores import PairScores
from evenhand.objectives.simpo import SimPO
from evenhand.objectives.tally import Tally
from evenhand.training.optim import MasterAdamW

MicroBatch = list[EncodedPair]


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step saw, as means over its pairs; the gradient's norm is the one before scaling down."""

    pairs: int
    tokens: int
    loss: float
    accuracy: float
    gap: float
    chosen_mean: float
    rejected_mean: float
    gradient_norm: float


def train_step(
    policy: Policy, objective: SimPO, optimizer: MasterAdamW, micro: Sequence[MicroBatch], rates: tuple[float, float]
) -> StepResult:
    """Loss = sum over pairs / pairs of the step, so that no cut into micro-batches changes the gradient.

    `rates` are the learning rate and the largest gradient norm. Raises NonFiniteError before the optimizer moves.
    """
    pairs = sum(len(batch) for batch in micro)
    tallies: dict[str, Tally] = {}
    tokens = 0
    for batch in micro:
        packed = pack(batch)
        scores = policy(packed)
        loss_B = objective(scores)
        _refuse_non_finite(loss_B, batch)
        (loss_B.sum() / pairs).backward()
        tokens += packed.tokens
        for name, tally in _tallies(scores, loss_B).items():
            tallies[name] = tallies[name] + tally if name in tallies else tally
    rate, largest = rates
    norm = optimizer.gradient_norm(largest)
    if not torch.isfinite(torch.tensor(norm)):
        raise NonFiniteError(f"the gradient is not finite; it came from {_named([p for b in micro for p in b])}.")
    optimizer.step(rate)
    return StepResult(pairs, tokens, **{name: tally.mean() for name, tally in tallies.items()}, gradient_norm=norm)


def _tallies(scores: PairScores, loss_B: Tensor) -> dict[str, Tally]:
    gap_B = scores.mean_gap_B.detach()
    return {
        "loss": Tally.of(loss_B),
        "accuracy": Tally.of((gap_B > 0).double() + 0.5 * (gap_B == 0).double()),
        "gap": Tally.of(gap_B),
        "chosen_mean": Tally.of(scores.chosen_mean_B),
        "rejected_mean": Tally.of(scores.rejected_mean_B),
    }


def _refuse_non_finite(loss_B: Tensor, batch: MicroBatch) -> None:
    finite_B = torch.isfinite(loss_B.detach()).tolist()
    if not all(finite_B):
        broken = [pair for pair, finite in zip(batch, finite_B) if not finite]
        raise NonFiniteError(f"the loss is not finite for {_named(broken)}; nothing was changed by this step.")


def _named(pairs: list[EncodedPair]) -> str:
    shown = ", ".join(f"row {pair.row} ({pair.id})" for pair in pairs[:10])
    return shown if len(pairs) <= 10 else f"{shown} and {len(pairs) - 10} more"
