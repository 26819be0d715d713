"""Forest attention on a CPU: torch's own flash kernels, a run in two pieces, and no mask or padded copy anywhere.

A run sees two kinds of keys: its own tokens, causally, and the path before them, all of it. Each piece is one call of
the kernel; the pieces are joined by their normalisers (Dao et al. 2022, arXiv 2205.14135, section 3.1). Backward hands
each piece the joined normaliser and output, which is what the kernel's formula needs, and adds the results.

All of it is computed in fp32, whatever the model's dtype, and rounded once: where a run is cut depends on the other pairs
of its batch, and a piece rounded to bf16 would carry that into a pair's numbers.

Shapes: T tokens, Q queries of one run, H query heads, G key-value heads, D width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from evenhand.model.pack import Forest

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def flash_forest(
    query_1HTD: Tensor, key_1GTD: Tensor, value_1GTD: Tensor, forest: Forest, scaling: float | None
) -> Tensor:
    """All runs; returns (1, H, T, D). Gradients are the same bits from run to run."""
    result: Tensor = _FlashForest.apply(query_1HTD, key_1GTD, value_1GTD, forest, scaling)
    return result


class _FlashForest(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, forest: Forest, scaling: float | None) -> Tensor:
        ctx.forest, ctx.scaling, given = forest, scaling, (query, key, value)
        query, wide_key, wide_value = _exact(query, key, value)
        out, normaliser = torch.empty_like(query), query.new_empty(query.shape[:3])
        for start, end, path in _runs(forest):
            own = (query[:, :, start:end], wide_key[:, :, start:end], wide_value[:, :, start:end])
            part, part_normaliser = _forward(*own, 0.0, True, scale=scaling)
            if path is not None:
                before = (own[0], wide_key.index_select(2, path), wide_value.index_select(2, path))
                part, part_normaliser = _joined(part, part_normaliser, *_forward(*before, 0.0, False, scale=scaling))
            out[:, :, start:end] = part
            normaliser[:, :, start:end] = part_normaliser
        out = out.to(given[0].dtype)
        ctx.save_for_backward(*given, out, normaliser)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, normaliser = ctx.saved_tensors
        dtype, groups = query.dtype, query.shape[1] // key.shape[1]
        query, wide_key, wide_value = _exact(query, key, value)
        gradient, out = gradient.to(query.dtype), out.to(query.dtype)
        query_gradient = torch.empty_like(query)
        key_gradient, value_gradient = torch.zeros_like(wide_key), torch.zeros_like(wide_value)
        for start, end, path in _runs(ctx.forest):
            run = slice(start, end)
            seen = (out[:, :, run], normaliser[:, :, run], 0.0)
            own = (query[:, :, run], wide_key[:, :, run], wide_value[:, :, run])
            dq, dk, dv = _backward(gradient[:, :, run], *own, *seen, True, scale=ctx.scaling)
            key_gradient[:, :, run] += dk
            value_gradient[:, :, run] += dv
            if path is not None:
                before = (own[0], wide_key.index_select(2, path), wide_value.index_select(2, path))
                more, dk, dv = _backward(gradient[:, :, run], *before, *seen, False, scale=ctx.scaling)
                dq = dq + more
                key_gradient.index_add_(2, path, dk)
                value_gradient.index_add_(2, path, dv)
            query_gradient[:, :, run] = dq
        gradients = (query_gradient, _narrowed(key_gradient, groups), _narrowed(value_gradient, groups))
        return *(x.to(dtype) for x in gradients), None, None


def _runs(forest: Forest) -> list[tuple[int, int, Tensor | None]]:
    """Start and end of each run, and the path before its own tokens, None for a run from the root."""
    found: list[tuple[int, int, Tensor | None]] = []
    for start, end, key_start, key_end in forest.runs:
        before = key_end - (end - start)
        found.append((start, end, forest.path_K[key_start:before] if before > key_start else None))
    return found


def _joined(
    first: Tensor, first_normaliser: Tensor, second: Tensor, second_normaliser: Tensor
) -> tuple[Tensor, Tensor]:
    normaliser = torch.logaddexp(first_normaliser, second_normaliser)
    share = (second_normaliser - normaliser).exp_()[..., None]
    return first + (second - first) * share, normaliser


def _exact(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All three in fp32 or better, key-value heads repeated for the query heads that share them."""
    dtype, groups = torch.promote_types(query.dtype, torch.float32), query.shape[1] // key.shape[1]
    wide_key, wide_value = (x if groups == 1 else x.repeat_interleave(groups, dim=1) for x in (key, value))
    return query.to(dtype), wide_key.to(dtype), wide_value.to(dtype)


def _narrowed(gradient: Tensor, groups: int) -> Tensor:
    if groups == 1:
        return gradient
    batch, heads, tokens, width = gradient.shape
    return gradient.view(batch, heads // groups, groups, tokens, width).sum(2)
