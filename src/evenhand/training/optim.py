"""AdamW on fp32 master weights, with gradients added up in fp32, whatever dtype the model computes in."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn


class MasterAdamW:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) over the trained weights of `model`.

    A weight in fp32 is its own master. For any other dtype an fp32 copy is kept: gradients are added to the copy's as
    soon as they are made, the step moves the copy, and the model gets it rounded. At learning rates of 1e-6 a bf16
    weight would not move at all.
    """

    def __init__(self, model: nn.Module, weight_decay: float) -> None:
        self.names = [name for name, weight in model.named_parameters() if weight.requires_grad]
        self._weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.masters = [w if w.dtype == torch.float32 else w.detach().float() for w in self._weights]
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

    def gradient_norm(self, largest: float) -> float:
        """The norm of all gradients; they are scaled down to `largest` where it is above."""
        return float(nn.utils.clip_grad_norm_(self.masters, largest))

    def step(self, learning_rate: float) -> None:
        """Move the masters, hand them to the model, forget the gradients."""
        for group in self.adamw.param_groups:
            group["lr"] = learning_rate
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        self._publish()

    @torch.no_grad()
    def _publish(self) -> None:
        for weight, master in zip(self._weights, self.masters):
            if weight is not master:
                weight.copy_(master)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the state under a stable name: masters and AdamW's moments."""
        for name, master in zip(self.names, self.masters):
            yield f"master.{name}", master.detach()
            for key, value in self.adamw.state.get(master, {}).items():
                yield f"{key}.{name}", value

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave; raises KeyError where a weight is missing."""
        for name, master in zip(self.names, self.masters):
            master.copy_(tensors[f"master.{name}"])
            keys = ("step", "exp_avg", "exp_avg_sq")
            if f"step.{name}" in tensors:
                self.adamw.state[master] = {
                    key: tensors[f"{key}.{name}"].to(master.device, torch.float32).clone() for key in keys
                }
        self._publish()

    def close(self) -> None:
        """Stop catching gradients; the weights are a plain model's again."""
        for hook in self._hooks:
            hook.remove()


def _move_gradient(weight: Tensor, master: Tensor) -> None:
    assert weight.grad is not None
    if master.grad is None:
        master.grad = weight.grad.float()
    else:
        master.grad.add_(weight.grad)
    weight.grad = None
