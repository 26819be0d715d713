"""Log-probabilities from chunks against float64 log-softmax, forward and backward, and what they hold in memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from evenhand.model.head import LogitForm, head_chunk, token_log_probs

TOKENS, WIDTH, VOCABULARY = 37, 16, 53
FORMS = {
    "plain": LogitForm(),
    "scaled": LogitForm(scale=0.25),
    "capped": LogitForm(cap=3.0),
    "both": LogitForm(scale=0.5, cap=2.0),
}
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
with_bias = pytest.mark.parametrize("has_bias", [False, True], ids=["no bias", "bias"])


def drawn(has_bias: bool, seed: int = 0) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Hidden states, weight, bias and targets, in fp32."""
    draw = torch.Generator().manual_seed(seed)
    hidden, weight = torch.randn(TOKENS, WIDTH, generator=draw), torch.randn(VOCABULARY, WIDTH, generator=draw)
    bias = torch.randn(VOCABULARY, generator=draw) if has_bias else None
    return hidden, weight, bias, torch.randint(0, VOCABULARY, (TOKENS,), generator=draw)


def by_hand(hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, form: LogitForm) -> Tensor:
    logits = hidden @ weight.T
    if bias is not None:
        logits = logits + bias
    logits = logits * form.scale
    if form.cap is not None:
        logits = form.cap * torch.tanh(logits / form.cap)
    return torch.log_softmax(logits, -1)[torch.arange(len(target)), target]


def gradients_of(sums: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    upstream = torch.linspace(-1.0, 2.0, len(sums), dtype=sums.dtype)
    return list(torch.autograd.grad(sums @ upstream, inputs))


def assert_close(found: Tensor, wanted: Tensor) -> None:
    assert found.dtype == torch.float32
    error = (found.double() - wanted).norm() / wanted.norm()
    assert error.item() < 1e-5


@every_form
@with_bias
@pytest.mark.parametrize("trains_head", [False, True], ids=["frozen", "trained"])
def test_log_probs_and_gradients_equal_float64(form: LogitForm, has_bias: bool, trains_head: bool) -> None:
    hidden, weight, bias, target = drawn(has_bias)
    learned = [hidden, *([x for x in (weight, bias) if x is not None] if trains_head else [])]
    for x in learned:
        x.requires_grad_()
    exact = [None if x is None else x.detach().double().requires_grad_(x.requires_grad) for x in (hidden, weight, bias)]
    found = token_log_probs(hidden, weight, bias, target, form, chunk=8)
    wanted = by_hand(*exact, target, form)
    assert_close(found.detach(), wanted.detach())
    exact_learned = [x for x in exact if x is not None and x.requires_grad]
    assert len(exact_learned) == len(learned)
    for one, other in zip(gradients_of(found, learned), gradients_of(wanted, exact_learned)):
        assert_close(one, other)


@every_form
@pytest.mark.parametrize("trains_head", [False, True], ids=["frozen", "trained"])
def test_the_chunk_size_changes_rounding_alone(form: LogitForm, trains_head: bool) -> None:
    results = []
    for chunk in (1, 5, TOKENS, 1000):
        hidden, weight, bias, target = drawn(True)
        learned = [hidden, weight] if trains_head else [hidden]
        for x in learned:
            x.requires_grad_()
        found = token_log_probs(hidden, weight, bias, target, form, chunk)
        results.append([found.detach(), *gradients_of(found, learned)])
    for other in results[1:]:
        for one, two in zip(results[0], other):
            torch.testing.assert_close(one, two, rtol=2e-5, atol=2e-6)


def test_a_bias_alone_may_be_trained() -> None:
    hidden, weight, bias, target = drawn(True)
    assert bias is not None
    bias.requires_grad_()
    exact = bias.detach().double().requires_grad_()
    found = token_log_probs(hidden, weight, bias, target, LogitForm(), 8)
    wanted = by_hand(hidden.double(), weight.double(), exact, target, LogitForm())
    assert_close(gradients_of(found, [bias])[0], gradients_of(wanted, [exact])[0])


def test_large_logits_stay_finite() -> None:
    hidden, weight, _, target = drawn(False)
    hidden = (hidden * 1e4).requires_grad_()
    found = token_log_probs(hidden, weight, None, target, LogitForm(), 8)
    assert_close(found.detach(), by_hand(hidden.detach().double(), weight.double(), None, target, LogitForm()))
    assert torch.isfinite(gradients_of(found, [hidden])[0]).all()


@pytest.mark.parametrize("trains_head", [False, True], ids=["frozen", "trained"])
def test_half_precision_gives_fp32_sums(trains_head: bool) -> None:
    hidden, weight, _, target = drawn(False)
    hidden, weight = hidden.bfloat16(), weight.bfloat16()
    exact = [x.double().requires_grad_() for x in (hidden, weight)]
    hidden.requires_grad_()
    weight.requires_grad_(trains_head)
    found = token_log_probs(hidden, weight, None, target, LogitForm(), 8)
    wanted = by_hand(*exact, None, target, LogitForm())
    assert found.dtype == torch.float32
    # The logits themselves are bfloat16, as the decoder's own are: 8 bits of each.
    torch.testing.assert_close(found.detach().double(), wanted.detach(), rtol=1e-2, atol=5e-2)
    learned = [hidden, weight] if trains_head else [hidden]
    for one, other in zip(gradients_of(found, learned), gradients_of(wanted, exact)):
        assert one.dtype == torch.bfloat16
        assert ((one.double() - other).norm() / other.norm()).item() < 2e-2


class Largest(TorchDispatchMode):
    """Remembers the most numbers that any tensor made under it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(one, Tensor):
                self.numel = max(self.numel, one.numel())
        return result


@contextmanager
def saved() -> Iterator[list[int]]:
    """The sizes of all tensors kept for backward."""
    sizes: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield sizes


@pytest.mark.parametrize("trains_head", [False, True], ids=["frozen", "trained"])
def test_no_tensor_of_tokens_times_vocabulary_is_ever_made(trains_head: bool) -> None:
    tokens, vocabulary, chunk = 300, 400, 16
    hidden = torch.randn(tokens, WIDTH, requires_grad=True)
    weight = torch.randn(vocabulary, WIDTH, requires_grad=trains_head)
    target = torch.randint(0, vocabulary, (tokens,))
    with Largest() as largest, saved() as sizes:
        token_log_probs(hidden, weight, None, target, LogitForm(), chunk).sum().backward()
    assert largest.numel == max(chunk * vocabulary, vocabulary * WIDTH, tokens * WIDTH)
    assert sizes
    assert max(sizes) <= (max(tokens, vocabulary) * WIDTH if trains_head else tokens * WIDTH)


def test_the_plain_way_would_be_noticed() -> None:
    hidden, weight, _, target = drawn(False)
    hidden.requires_grad_()
    with Largest() as largest, saved() as sizes:
        by_hand(hidden, weight, None, target, LogitForm()).sum().backward()
    assert largest.numel >= TOKENS * VOCABULARY
    assert max(sizes) >= TOKENS * VOCABULARY


def test_nothing_is_kept_without_a_gradient() -> None:
    hidden, weight, _, target = drawn(False)
    with torch.no_grad(), saved() as sizes:
        found = token_log_probs(hidden, weight, None, target, LogitForm(), 8)
    assert not found.requires_grad
    assert not sizes


@pytest.mark.parametrize(("vocabulary", "tokens"), [(49_152, 256), (128_256, 128), (300, 8192), (10**7, 64)])
def test_a_chunk_of_logits_on_a_cpu_takes_64_mib_at_most_but_holds_64_tokens(vocabulary: int, tokens: int) -> None:
    assert head_chunk(vocabulary, torch.device("cpu")) == tokens


def test_a_chunk_of_logits_on_a_gpu_follows_from_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for gib, tokens in ((24, 512), (80, 2048), (141, 4096)):
        properties = SimpleNamespace(total_memory=gib * 2**30)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, found=properties: found)
        assert head_chunk(128_256, torch.device("cuda")) == tokens
