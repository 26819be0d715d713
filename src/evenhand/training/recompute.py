"""Activation checkpointing that keeps attention's outputs: small beside what else a layer makes, and dear to repeat."""

from functools import partial
from typing import Any

import torch
from peft import PeftModel
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
from transformers import PreTrainedModel

# The names of torch's fused attention, on a CPU and on CUDA; a torch without one of them has no call of it.
_KEPT_NAMES = (
    ("aten", "_scaled_dot_product_flash_attention_for_cpu"),
    ("aten", "_scaled_dot_product_flash_attention"),
    ("aten", "_scaled_dot_product_efficient_attention"),
    ("aten", "_scaled_dot_product_cudnn_attention"),
    ("aten", "_flash_attention_forward"),
    ("torch_attn", "_varlen_attn"),
)


def _kept() -> frozenset[Any]:
    found = (getattr(getattr(torch.ops, space), name, None) for space, name in _KEPT_NAMES)
    return frozenset(packet.default for packet in found if packet is not None)


def choose(_context: Any, op: Any, *_args: Any, **_options: Any) -> CheckpointPolicy:
    """Keep what attention gave; everything else is computed again in backward."""
    return CheckpointPolicy.MUST_SAVE if op in KEPT else CheckpointPolicy.PREFER_RECOMPUTE


KEPT = _kept()
WHOLE: dict[str, Any] = {"use_reentrant": False}
SELECTIVE: dict[str, Any] = {**WHOLE, "context_fn": partial(create_selective_checkpoint_contexts, choose)}


def enable(model: PreTrainedModel | PeftModel, settings: dict[str, Any] = SELECTIVE) -> None:
    """Compute each layer's activations again in backward; `WHOLE` keeps nothing of a layer but its input."""
    # transformers renames this method; both names take the same settings.
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)(settings)
