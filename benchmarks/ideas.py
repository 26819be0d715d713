"""evenhand with one idea taken away: each is a context in which the plain form stands in its place.

A new row is one more function and one more entry of IDEAS.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from evenhand.model import adapter, attention, forward
from evenhand.model.head import LogitForm
from evenhand.model.pack import Forest, pack
from evenhand.training import goal, plan


@contextmanager
def without_sharing() -> Iterator[None]:
    """Every sequence laid out whole; nothing padded."""
    with patch.object(goal, "pack", lambda pairs: pack(pairs, share=False)):
        yield


@contextmanager
def with_all_logits() -> Iterator[None]:
    """All scored tokens' logits at once, kept for backward."""

    def plain(hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, form: LogitForm, _: int) -> Tensor:
        logits = torch.nn.functional.linear(hidden, weight, bias).float() * form.scale
        if form.cap is not None:
            logits = torch.tanh(logits / form.cap) * form.cap
        return torch.log_softmax(logits, dim=-1).gather(1, target[:, None])[:, 0]

    with patch.object(forward, "token_log_probs", plain):
        yield


@contextmanager
def with_peft_lora() -> Iterator[None]:
    """PEFT's own forward of its layers."""
    with patch.object(adapter, "fuse", lambda _: 0):
        yield


@contextmanager
def with_masks() -> Iterator[None]:
    """One scaled dot-product attention a run, with a mask over the path."""

    def plain(query: Tensor, key: Tensor, value: Tensor, forest: Forest, scaling: float | None, *_: Any) -> Tensor:
        form = (scaling, None, None)
        return torch.cat([attention._run_attention(query, key, value, forest, r, form) for r in forest.runs], dim=2)

    def varlen(*given: Any) -> Tensor:
        return plain(*given)[0].transpose(0, 1)

    with patch.object(attention, "flash_forest", plain), patch.object(attention, "varlen_forest", varlen):
        yield


@contextmanager
def pair_by_pair() -> Iterator[None]:
    """A micro-batch for every pair instead of one for a budget of tokens."""
    with patch.object(plan, "micro_batches", lambda pairs, *_: [[[pair] for pair in pairs]]):
        yield


IDEAS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "evenhand": nullcontext,
    "without sharing": without_sharing,
    "with all logits at once": with_all_logits,
    "with PEFT's LoRA": with_peft_lora,
    "with masked attention": with_masks,
    "with a micro-batch a pair": pair_by_pair,
}
