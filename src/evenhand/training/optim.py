"""AdamW on fp32 master weights, with gradients added up in fp32, whatever dtype the model computes in."""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from evenhand.training.ranks import Ranks


class MasterAdamW:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) over the trained weights of `model`.

    A weight in fp32 is its own master. For any other dtype an fp32 copy is kept: gradients are added to the copy's as
    soon as they are made, the step moves the copy, and the model gets it rounded. At learning rates of 1e-6 a bf16
    weight would not move at all. Of a sharded weight each rank keeps and moves the rows it holds.
    """

    def __init__(self, model: nn.Module, weight_decay: float, ranks: Ranks | None = None) -> None:
        trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
        self.names = [name for name, _ in trained]
        self.ranks = ranks or Ranks()
        self.sharded = any(isinstance(weight, DTensor) for _, weight in trained)
        self._weights = [weight for _, weight in trained]
        self.masters = [_master_of(weight) for weight in self._weights]
        self._hooks = [
            weight.register_post_accumulate_grad_hook(lambda w, m=master: _move_gradient(w, m))
            for weight, master in zip(self._weights, self.masters)
            if weight is not master
        ]
        groups = [
            {"params": [m for m in self.masters if m.ndim >= 2], "weight_decay": weight_decay},
            {"params": [m for m in self.masters if m.ndim < 2], "weight_decay": 0.0},
        ]
        self.adamw = torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, fused=True)

    @property
    def loss_scale(self) -> float:
        """What the loss is multiplied by: FSDP averages over ranks, and a sum is wanted."""
        return float(self.ranks.size) if self.sharded else 1.0

    @torch.no_grad()
    def reduce(self) -> None:
        """Add the gradients of all ranks up; shards are added up already."""
        if self.sharded or self.ranks.size == 1:
            return
        has = self.ranks.add(torch.tensor([float(master.grad is not None) for master in self.masters])).tolist()
        used = [master for master, count in zip(self.masters, has) if count]
        for master in used:
            if master.grad is None:
                master.grad = torch.zeros_like(master)
        self.ranks.add_in_place([master.grad for master in used if master.grad is not None])

    @torch.no_grad()
    def gradient_norm(self, largest: float) -> float:
        """The norm of all gradients; they are scaled down to `largest` where it is above."""
        norm = nn.utils.get_total_norm([m.grad for m in self.masters if m.grad is not None and m.numel()])
        if self.sharded:
            norm = self.ranks.add(norm.double() ** 2).sqrt().to(norm)
        nn.utils.clip_grads_with_norm_(self.masters, largest, norm)
        return float(norm)

    @torch.no_grad()
    def broken_master(self) -> str | None:
        """The name of a master weight that is not finite, on any rank; None where all are."""
        held = [i for i, master in enumerate(self.masters) if master.numel()]
        largest = torch._foreach_norm([self.masters[i] for i in held], math.inf)  # NaN where any element is
        broken = (
            []
            if bool(torch.stack(largest).isfinite().all())
            else [self.names[i] for i, most in zip(held, largest) if not bool(most.isfinite())]
        )
        found: list[str] = [name for names in self.ranks.gather(broken[:1]) for name in names]
        return found[0] if found else None

    def step(self, learning_rate: float) -> None:
        """Move the masters, hand them to the model, forget the gradients."""
        for group in self.adamw.param_groups:
            group["lr"] = learning_rate
        self.adamw.step()
        self.forget_gradients()
        self._publish()

    def forget_gradients(self) -> None:
        """Begin the next step with none."""
        self.adamw.zero_grad(set_to_none=True)

    @torch.no_grad()
    def _publish(self) -> None:
        for weight, master in zip(self._weights, self.masters):
            if weight is not master:
                _held(weight).copy_(master)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The state that this rank keeps, under stable names: masters and AdamW's moments.

        Of shards, rank 0 keeps also what has no rows.
        """
        for name, master in zip(self.names, self.masters):
            for key, value in {"master": master.detach(), **self.adamw.state.get(master, {})}.items():
                if not self.sharded or (value.ndim and value.numel()) or (self.ranks.first and not value.ndim):
                    yield f"{key}.{name}", value

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what all ranks' `tensors` gave together; raises KeyError where a weight is missing."""
        for name, weight, master in zip(self.names, self._weights, self.masters):
            master.copy_(self._own(tensors[f"master.{name}"], weight))
            if f"step.{name}" in tensors:
                self.adamw.state[master] = {
                    key: self._own(tensors[f"{key}.{name}"], weight).to(master.device, torch.float32).clone()
                    for key in ("step", "exp_avg", "exp_avg_sq")
                }
        self._publish()

    def _own(self, whole: Tensor, weight: Tensor) -> Tensor:
        """The rows of `whole` that this rank holds: those that torch.chunk gives it."""
        if not isinstance(weight, DTensor) or not whole.ndim:
            return whole
        rows = -(-len(whole) // self.ranks.size)
        return whole[self.ranks.rank * rows : (self.ranks.rank + 1) * rows]

    def close(self) -> None:
        """Stop catching gradients; the weights are a plain model's again."""
        for hook in self._hooks:
            hook.remove()


@torch.no_grad()
def _held(weight: Tensor) -> Tensor:
    """The part of a weight that is in this process, sharing its memory."""
    return weight.to_local().detach() if isinstance(weight, DTensor) else weight


def _master_of(weight: Tensor) -> Tensor:
    if isinstance(weight, DTensor) or weight.dtype != torch.float32:
        return _held(weight).detach().float()
    return weight


def _move_gradient(weight: Tensor, master: Tensor) -> None:
    assert weight.grad is not None
    gradient = _held(weight.grad)
    if master.grad is None:
        master.grad = gradient.float()
    else:
        master.grad.add_(gradient)
    weight.grad = None
