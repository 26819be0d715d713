"""Keys and values along the paths of a forest, with a gradient that is the same bits from run to run.

A token stands on the path of every run below it. The gradient that torch gives to `index_select` adds those copies
up by atomic operations on CUDA, in whatever order they arrive; here each token's copies are added in the order of
the layout, in fp32, and rounded once.

Shapes: T tokens, K keys of all runs, G key-value heads, D width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from evenhand.model.pack import Forest


def along_paths(x_TGD: Tensor, forest: Forest) -> Tensor:
    """`x_TGD` at every key of every run, (K, G, D); `x_TGD` itself where no token is shared."""
    if len(forest.path_K) == len(x_TGD):
        return x_TGD  # every token has a copy, so that as many copies as tokens are the tokens in their order
    result: Tensor = _AlongPaths.apply(x_TGD, forest.path_K, forest.copies_K, forest.copy_starts_T1)
    return result


class _AlongPaths(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TGD: Tensor, path_K: Tensor, copies_K: Tensor, copy_starts_T1: Tensor) -> Tensor:
        ctx.save_for_backward(copies_K, copy_starts_T1)
        return x_TGD.index_select(0, path_K)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_KGD: Tensor) -> tuple[Tensor | None, ...]:
        copies_K, copy_starts_T1 = ctx.saved_tensors
        wide = torch.promote_types(gradient_KGD.dtype, torch.float32)
        by_token_KGD = gradient_KGD.index_select(0, copies_K).to(wide)
        # Unchecked, since a check would make the host wait for the device.
        sums_TGD = torch.segment_reduce(by_token_KGD, "sum", offsets=copy_starts_T1, axis=0, unsafe=True)
        return sums_TGD.to(gradient_KGD.dtype), None, None, None
