"""LoRA (Hu et al. 2021, arXiv 2106.09685) through PEFT, with its arithmetic in one differentiable step.

PEFT's own forward makes three more tensors of the layer's width for every linear layer; here the low-rank product is
added in place, and backward needs only the input and the rank-sized product.

Shapes: T tokens, I inputs, O outputs, r rank.
"""

from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from evenhand.errors import ModelError

NAME = "default"
ALL_LINEAR = "all-linear"


@dataclass(frozen=True, slots=True)
class Adapter:
    """LoRA's settings; `targets` are names of linear layers, or all but the output layer."""

    rank: int
    alpha: float
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None


def attach(model: PreTrainedModel, adapter: Adapter) -> PeftModel:
    """Put a fresh adapter on `model` in the model's own dtype; everything else is frozen.

    Raises ModelError where a target names no layer.
    """
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=list(adapter.targets) if adapter.targets else ALL_LINEAR,
        task_type="SEQ_CLS" if _is_classifier(model) else "CAUSAL_LM",
        bias="none",
    )
    try:
        wrapped = get_peft_model(model, config, autocast_adapter_dtype=False)
    except ValueError as error:
        raise ModelError(f"the adapter cannot be put on {type(model).__name__}: {error}") from error
    # On a base in four bits PEFT makes fp32 adapters, and then casts every activation there and back.
    dtype = model.get_input_embeddings().weight.dtype
    for name, weight in wrapped.named_parameters():
        if weight.requires_grad and "lora_" in name:  # a reward head is trained beside it, in its own precision
            weight.data = weight.data.to(dtype)
    fuse(wrapped)
    return wrapped


def _is_classifier(model: PreTrainedModel) -> bool:
    """Whether PEFT has to train and save a head beside the adapter."""
    return type(model).__name__.endswith("ForSequenceClassification")


def is_fresh(model: nn.Module) -> bool:
    """Whether the model is its base with an adapter that adds nothing yet, so that switching it off is the start."""
    ups = [weight for name, weight in model.named_parameters() if "lora_B" in name]
    return isinstance(model, PeftModel) and bool(ups) and not any(weight.any() for weight in ups)


def fuse(model: PeftModel) -> int:
    """Let every plain LoRA layer run its fused form; returns how many do. The layers stay PEFT's."""
    layers = [module for module in model.modules() if type(module) is LoraLinear]
    for layer in layers:
        layer.forward = MethodType(_fused_forward, layer)
    return len(layers)


def _fused_forward(layer: LoraLinear, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if args or kwargs or not _is_plain(layer, x):
        return LoraLinear.forward(layer, x, *args, **kwargs)
    name = layer.active_adapters[0]
    base: nn.Linear = layer.base_layer
    down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
    flat = x.reshape(-1, x.shape[-1])
    result: Tensor = _LowRankLinear.apply(flat, base.weight, base.bias, down, up, layer.scaling[name])
    return result.view(*x.shape[:-1], -1)


def _is_plain(layer: LoraLinear, x: Tensor) -> bool:
    """One active adapter of the usual kind, unmerged, on a frozen plain matrix, all in one dtype."""
    if layer.disable_adapters or layer.merged or len(layer.active_adapters) != 1:
        return False
    name = layer.active_adapters[0]
    if name not in layer.lora_A or layer.lora_variant.get(name) is not None:
        return False
    drops = layer.training and not isinstance(layer.lora_dropout[name], nn.Identity)
    base = layer.base_layer
    plain = type(base) is nn.Linear and not base.weight.requires_grad and layer.lora_A[name].bias is None
    return plain and not drops and x.dtype == base.weight.dtype == layer.lora_A[name].weight.dtype


class _LowRankLinear(torch.autograd.Function):
    """x W^T + b + scale * (x A^T) B^T, for a frozen W and b."""

    @staticmethod
    def forward(
        ctx: Any, x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, down_rI: Tensor, up_Or: Tensor, scale: float
    ) -> Tensor:
        low_Tr = torch.mm(x_TI, down_rI.T).mul_(scale)
        result_TO = torch.nn.functional.linear(x_TI, weight_OI, bias_O)
        result_TO.addmm_(low_Tr, up_Or.T)
        ctx.scale = scale
        ctx.save_for_backward(x_TI, weight_OI, down_rI, up_Or, low_Tr)
        return result_TO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_TO: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, weight_OI, down_rI, up_Or, low_Tr = ctx.saved_tensors
        low_gradient_Tr = torch.mm(gradient_TO, up_Or).mul_(ctx.scale)
        up_gradient_Or = torch.mm(gradient_TO.T, low_Tr)
        down_gradient_rI = torch.mm(low_gradient_Tr.T, x_TI)
        x_gradient_TI = None
        if ctx.needs_input_grad[0]:
            x_gradient_TI = torch.mm(gradient_TO, weight_OI).addmm_(low_gradient_Tr, down_rI)
        return x_gradient_TI, None, None, down_gradient_rI, up_gradient_Or, None
