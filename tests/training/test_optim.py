"""The optimizer is torch's AdamW bit for bit in fp32, and keeps fp32 masters for any other dtype."""

import pytest
import torch
from architectures import tiny
from torch import Tensor, nn

from evenhand.training.optim import MasterAdamW


def ids(step: int) -> Tensor:
    return torch.randint(3, 199, (2, 12), generator=torch.Generator().manual_seed(step))


def backward(model: nn.Module, step: int) -> None:
    model(input_ids=ids(step), labels=ids(step)).loss.backward()


def test_in_fp32_it_is_torchs_adamw_bit_for_bit() -> None:
    ours, theirs = tiny("llama"), tiny("llama")
    optimizer = MasterAdamW(ours, weight_decay=0.1)
    matrices = [w for w in theirs.parameters() if w.ndim >= 2]
    vectors = [w for w in theirs.parameters() if w.ndim < 2]
    assert vectors
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    wanted = torch.optim.AdamW(groups, lr=0.0, fused=True)
    for step in range(5):
        rate = 1e-3 / (step + 1)
        backward(ours, step)
        backward(theirs, step)
        norm = optimizer.gradient_norm(0.5)
        assert norm == float(nn.utils.clip_grad_norm_(theirs.parameters(), 0.5))
        assert norm > 0.5  # so that the gradients were scaled down
        optimizer.step(rate)
        for group in wanted.param_groups:
            group["lr"] = rate
        wanted.step()
        wanted.zero_grad()
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters()))
    assert all(weight.grad is None for weight in ours.parameters())


def test_masters_move_where_bf16_weights_cannot() -> None:
    model = tiny("llama", torch.bfloat16)
    before = [weight.detach().clone() for weight in model.parameters()]
    optimizer = MasterAdamW(model, weight_decay=0.0)
    masters = [master.clone() for master in optimizer.masters]
    for step in range(20):
        backward(model, step)
        optimizer.gradient_norm(1.0)
        optimizer.step(1e-6)
    moved = [float((a - b).abs().max()) for a, b in zip(optimizer.masters, masters)]
    assert all(1e-6 < distance < 3e-5 for distance in moved)
    stuck = sum(int((a == b).sum()) for a, b in zip(model.parameters(), before))
    assert stuck > 0.9 * sum(weight.numel() for weight in before)  # a bf16 weight near 1 needs steps of 4e-3
    assert all(torch.equal(w, m.bfloat16()) for w, m in zip(model.parameters(), optimizer.masters))


def test_gradients_of_micro_batches_are_added_in_fp32() -> None:
    model = tiny("llama", torch.bfloat16)
    optimizer = MasterAdamW(model, weight_decay=0.0)
    for step in range(3):
        backward(model, step)
    alone = tiny("llama", torch.bfloat16)
    wanted = [torch.zeros_like(weight, dtype=torch.float32) for weight in alone.parameters()]
    for step in range(3):
        alone.zero_grad()
        backward(alone, step)
        for total, weight in zip(wanted, alone.parameters()):
            assert weight.grad is not None
            total += weight.grad.float()
    assert all(weight.grad is None for weight in model.parameters())
    for master, total in zip(optimizer.masters, wanted):
        assert master.grad is not None
        assert master.grad.dtype == torch.float32
        assert torch.equal(master.grad, total)
    in_bf16 = [total.bfloat16().float() for total in wanted]
    assert not all(torch.equal(a, b) for a, b in zip(in_bf16, wanted))  # adding in bf16 would have lost digits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_taken_out_and_put_back_goes_on_alike(dtype: torch.dtype) -> None:
    one, other = tiny("llama", dtype), tiny("llama", dtype)
    ours, theirs = MasterAdamW(one, 0.1), MasterAdamW(other, 0.1)
    for step in range(2):
        backward(one, step)
        ours.step(1e-3)
    kept = {name: tensor.clone() for name, tensor in ours.tensors()}
    assert len(kept) == 4 * len(ours.names)
    theirs.restore(kept)
    for model, optimizer in ((one, ours), (other, theirs)):
        backward(model, 2)
        optimizer.step(1e-3)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters()))
    again = dict(theirs.tensors())
    assert all(torch.equal(tensor, again[name]) for name, tensor in ours.tensors())
    assert any(not torch.equal(kept[name], tensor) for name, tensor in again.items())


def test_a_state_without_a_weight_is_refused_and_closing_gives_gradients_back() -> None:
    model = tiny("llama", torch.bfloat16)
    optimizer = MasterAdamW(model, 0.0)
    with pytest.raises(KeyError, match="master"):
        optimizer.restore({})
    optimizer.close()
    backward(model, 0)
    assert all(weight.grad is not None for weight in model.parameters())
