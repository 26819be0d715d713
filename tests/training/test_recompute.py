"""Checkpointed activations: the same bits, less memory, and no attention computed twice."""

from typing import Any

import pytest
import torch
from architectures import tiny
from test_parity import some_pairs
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from evenhand.model.forward import Policy
from evenhand.model.pack import pack
from evenhand.training.recompute import KEPT, SELECTIVE, WHOLE, enable


class Counting(TorchDispatchMode):
    """Counts the calls of fused attention."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += func in KEPT
        return func(*args, **(kwargs or {}))


def ran(settings: dict[str, Any] | None) -> tuple[list[Tensor], int, int]:
    """Loss and gradients, calls of attention, and bytes that forward leaves for backward."""
    model = tiny("llama")
    if settings is not None:
        enable(model, settings)
    policy = Policy(model).train()
    batch = pack(some_pairs())
    policy(batch)  # what is made once is not counted
    with torch.profiler.profile(profile_memory=True) as profile:
        loss = policy(batch).mean_gap_B.sum()
    left = sum(event.self_cpu_memory_usage for event in profile.key_averages())
    loss.backward()
    bits = [loss.detach(), *(w.grad for w in model.parameters() if w.grad is not None)]
    with Counting() as counting:
        policy(batch).mean_gap_B.sum().backward()
    return bits, counting.calls, left


@pytest.fixture(scope="module")
def three() -> list[tuple[list[Tensor], int, int]]:
    return [ran(settings) for settings in (None, SELECTIVE, WHOLE)]


def test_the_numbers_are_the_same_bits(three: list[tuple[list[Tensor], int, int]]) -> None:
    plain, selective, _ = three
    assert len(plain[0]) == len(selective[0]) > 10
    assert all(torch.equal(one, other) for one, other in zip(plain[0], selective[0]))


def test_attention_is_computed_once(three: list[tuple[list[Tensor], int, int]]) -> None:
    plain, selective, everything = (calls for _, calls, _ in three)
    assert plain == selective > 0
    assert everything == 2 * plain


def test_it_takes_little_more_than_keeping_nothing(three: list[tuple[list[Tensor], int, int]]) -> None:
    plain, selective, everything = (left for _, _, left in three)
    assert everything < selective < 0.7 * plain
