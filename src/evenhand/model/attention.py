"""Attention over a forest: each run asks with its own tokens and sees the keys of its whole path.

Registered as "forest" with transformers' AttentionInterface. On CUDA in half precision one call of torch's
variable-length flash attention does all runs; elsewhere each run is one scaled dot-product attention.

Shapes: T tokens, K gathered keys, Q queries of one run, P keys of one run, H query heads, G key-value heads, D width.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

from evenhand.errors import ModelError
from evenhand.model.flash import flash_forest
from evenhand.model.gather import along_paths
from evenhand.model.kernel import why_run_by_run
from evenhand.model.pack import Forest

NAME = "forest"
VarlenKernel = Callable[..., Any]


class ForestUnsupportedError(ModelError):
    """This decoder's attention needs something that a forest cannot give; the padded path is used instead."""


def forest_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    forest: Forest | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, None]:
    """transformers' attention signature: query (1, H, T, D), key and value (1, G, T, D) -> (1, T, H, D).

    Raises ForestUnsupportedError for what is not plain causal attention with an optional sliding window and soft cap.
    """
    if forest is None:
        raise ForestUnsupportedError(f"{type(module).__name__} does not hand the forest to its attention")
    refuse_unknown(module, attention_mask, dropout, options)
    window, cap = sliding_window(module, options), options.get("softcap")
    if (reason := why_run_by_run(query, cap)) is None:
        return varlen_forest(query, key, value, forest, scaling, window, varlen_attn)[None], None
    if query.device.type == "cpu" and cap is None and (window is None or window >= forest.longest_key):
        return flash_forest(query, key, value, forest, scaling).transpose(1, 2), None
    forest.reasons.add(reason)
    parts = [_run_attention(query, key, value, forest, run, (scaling, window, cap)) for run in forest.runs]
    return torch.cat(parts, dim=2).transpose(1, 2), None


def varlen_forest(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    forest: Forest,
    scaling: float | None,
    window: int | None,
    kernel: VarlenKernel,
) -> Tensor:
    """All runs in one call of `kernel`, which has the signature of torch's varlen_attn; returns (T, H, D)."""
    query_THD = query[0].transpose(0, 1).contiguous()
    key_KGD, value_KGD = (along_paths(x[0].transpose(0, 1), forest).contiguous() for x in (key, value))
    grouped = {"enable_gqa": True} if "enable_gqa" in inspect.signature(kernel).parameters else {}
    return kernel(
        query_THD,
        key_KGD,
        value_KGD,
        forest.query_starts_R1,
        forest.key_starts_R1,
        forest.longest_query,
        forest.longest_key,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        **grouped,
    )


def _run_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    forest: Forest,
    run: tuple[int, int, int, int],
    form: tuple[float | None, int | None, float | None],
) -> Tensor:
    """One run: (1, H, Q, D)."""
    start, end, key_start, key_end = run
    scaling, window, cap = form
    query_HQD = query[:, :, start:end]
    whole = key_end - key_start == end - start
    if whole:
        key_GPD, value_GPD = key[:, :, start:end], value[:, :, start:end]
    else:
        path = forest.path_K[key_start:key_end]
        key_GPD, value_GPD = key.index_select(2, path), value.index_select(2, path)
    if cap is not None:
        return _capped(query_HQD, key_GPD, value_GPD, _mask(forest, run, window, query), (scaling, cap))
    grouped = query.shape[1] != key.shape[1]
    if whole and (window is None or window >= end - start):
        return F.scaled_dot_product_attention(
            query_HQD, key_GPD, value_GPD, is_causal=True, scale=scaling, enable_gqa=grouped
        )
    mask = _mask(forest, run, window, query)
    return F.scaled_dot_product_attention(
        query_HQD, key_GPD, value_GPD, attn_mask=mask, scale=scaling, enable_gqa=grouped
    )


def _capped(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, form: tuple[float | None, float]) -> Tensor:
    """Attention whose logits pass through cap * tanh(logit / cap), as in Gemma 2."""
    scaling, cap = form
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    logits = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    weights = torch.softmax((torch.tanh(logits / cap) * cap + mask).float(), dim=-1)
    return weights.to(query.dtype) @ value


def _mask(forest: Forest, run: tuple[int, int, int, int], window: int | None, like: Tensor) -> Tensor:
    """Additive mask (Q, P), aligned at the bottom right: a query sees its path up to itself."""
    start, end, key_start, key_end = run
    name = (run, window, like.dtype)
    if name not in forest.masks:
        queries, keys = end - start, key_end - key_start
        distance = torch.arange(keys - queries, keys, device=like.device)[:, None] - torch.arange(
            keys, device=like.device
        )
        seen = distance >= 0
        if window is not None:
            seen &= distance < window
        forest.masks[name] = torch.zeros(queries, keys, dtype=like.dtype, device=like.device).masked_fill_(
            ~seen, float("-inf")
        )
    return forest.masks[name]


def sliding_window(module: nn.Module, options: dict[str, Any]) -> int | None:
    """How many tokens back this layer sees, itself included; None for all."""
    config: Any = getattr(module, "config", None)
    kinds = getattr(config, "layer_types", None)
    kind = kinds[module.layer_idx] if kinds and isinstance(getattr(module, "layer_idx", None), int) else None
    if kind not in (None, "full_attention", "sliding_attention"):
        raise ForestUnsupportedError(f"{type(module).__name__} has a layer of kind {kind}")
    window = options.get("sliding_window")
    if window is None and kind == "sliding_attention":
        window = config.sliding_window
    if window is None and kind is None and getattr(config, "sliding_window", None) and "sliding_window" not in options:
        raise ForestUnsupportedError(f"{type(module).__name__} does not say which layers slide")
    return window


def refuse_unknown(module: nn.Module, attention_mask: Tensor | None, dropout: float, options: dict[str, Any]) -> None:
    """Raise for what would change the numbers if it were ignored."""
    if attention_mask is not None:
        raise ForestUnsupportedError(f"{type(module).__name__} masks by itself")
    if dropout:
        raise ForestUnsupportedError(f"{type(module).__name__} drops attention weights (dropout {dropout})")
    for name in ("s_aux", "position_bias", "head_mask", "alibi"):
        if options.get(name) is not None:
            raise ForestUnsupportedError(f"{type(module).__name__} adds `{name}` to its attention")
    if options.get("is_causal") is False or getattr(module, "is_causal", True) is False:
        raise ForestUnsupportedError(f"{type(module).__name__} is not causal")


AttentionInterface.register(NAME, forest_attention)
