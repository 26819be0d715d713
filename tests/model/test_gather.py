"""Gathering along paths: torch's own gradient, the same bits each time, with one rounding."""

from itertools import pairwise

import pytest
import torch
from test_parity import some_pairs
from torch import Tensor

from evenhand.model.gather import along_paths
from evenhand.model.pack import Forest, PackedBatch, pack

HEADS, WIDTH = 2, 8
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="atomic sums, which this avoids, are CUDA's")


def some_gradient(batch: PackedBatch, dtype: torch.dtype = torch.float32) -> Tensor:
    draw = torch.Generator().manual_seed(3)
    return torch.randn(len(batch.forest.path_K), HEADS, WIDTH, generator=draw).to(dtype)


def gradient_of(batch: PackedBatch, upstream: Tensor) -> Tensor:
    x = torch.zeros(batch.tokens, HEADS, WIDTH, dtype=upstream.dtype, device=upstream.device, requires_grad=True)
    (found,) = torch.autograd.grad(along_paths(x, batch.forest), x, upstream)
    return found


def copies(forest: Forest) -> list[list[int]]:
    """Where each token stands on the paths, found by looking."""
    path = forest.path_K.tolist()
    return [[k for k, token in enumerate(path) if token == t] for t in range(len(forest.copy_starts_T1) - 1)]


@pytest.mark.parametrize("share", [True, False], ids=["forest", "nothing shared"])
def test_it_is_index_select_with_its_gradient(share: bool) -> None:
    batch = pack(some_pairs(), share)
    assert share == (len(batch.forest.path_K) > batch.tokens)
    upstream = some_gradient(batch)
    x = torch.randn(batch.tokens, HEADS, WIDTH, generator=torch.Generator().manual_seed(4), requires_grad=True)
    wanted = x.index_select(0, batch.forest.path_K)
    assert torch.equal(along_paths(x, batch.forest), wanted)
    (wanted_gradient,) = torch.autograd.grad(wanted, x, upstream)
    torch.testing.assert_close(gradient_of(batch, upstream), wanted_gradient, rtol=1e-6, atol=1e-6)


def test_copies_are_listed_token_by_token_in_the_order_of_the_runs() -> None:
    forest = pack(some_pairs()).forest
    starts, listed = forest.copy_starts_T1.tolist(), forest.copies_K.tolist()
    assert [listed[a:b] for a, b in pairwise(starts)] == copies(forest)
    assert max(map(len, copies(forest))) > 1


def test_half_precision_is_added_in_single_and_rounded_once() -> None:
    batch = pack(some_pairs())
    upstream = some_gradient(batch, torch.bfloat16)
    wanted = []
    for places in copies(batch.forest):
        total = torch.zeros(HEADS, WIDTH)
        for k in places:
            total = total + upstream[k].float()
        wanted.append(total.bfloat16())
    assert torch.equal(gradient_of(batch, upstream), torch.stack(wanted))


def test_the_gradient_is_the_same_bits_twice() -> None:
    batch = pack(some_pairs())
    upstream = some_gradient(batch)
    assert torch.equal(gradient_of(batch, upstream), gradient_of(batch, upstream))


def test_a_double_gradient_stays_double() -> None:
    batch = pack(some_pairs())
    x = torch.randn(batch.tokens, 1, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: along_paths(t, batch.forest), (x,))


@cuda
def test_cuda_gives_the_same_bits_every_time_and_the_cpus_numbers() -> None:
    batch = pack(some_pairs())
    upstream = some_gradient(batch, torch.bfloat16)
    moved = batch.to(torch.device("cuda"))
    found = [gradient_of(moved, upstream.cuda()) for _ in range(20)]
    assert all(torch.equal(found[0], other) for other in found)
    torch.testing.assert_close(found[0].cpu(), gradient_of(batch, upstream), rtol=1e-2, atol=1e-2)
