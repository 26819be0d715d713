"""Attention over a forest: the CUDA path, the CPU path and plain attention give the same numbers; the rest is refused."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from architectures import WINDOW, tiny
from test_parity import assert_same_gradients, gradients, loss_by_forest, loss_by_rows, some_pairs
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    GptOssConfig,
    MambaConfig,
    PreTrainedModel,
)

from evenhand.model import attention
from evenhand.model.attention import ForestUnsupportedError, VarlenKernel, forest_attention, varlen_forest
from evenhand.model.flash import flash_forest
from evenhand.model.forward import Policy, forest_sums, padded_sums
from evenhand.model.pack import Forest, pack

HEADS, GROUPS, WIDTH = 4, 2, 8


def varlen_grouped(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> Tensor:
    """What torch's varlen_attn promises, one query at a time: bottom-right causal, a window to the left."""
    assert enable_gqa or q.shape[1] == k.shape[1]
    assert window_size[1] == 0
    assert (max_q, max_k) == (int(cu_q.diff().max()), int(cu_k.diff().max()))
    repeat, scale = q.shape[1] // k.shape[1], scale or 1 / math.sqrt(q.shape[2])
    rows = []
    for run in range(len(cu_q) - 1):
        keys, values = (x[cu_k[run] : cu_k[run + 1]].repeat_interleave(repeat, dim=1) for x in (k, v))
        queries = q[cu_q[run] : cu_q[run + 1]]
        for i, query in enumerate(queries):
            last = len(keys) - len(queries) + i
            first = 0 if window_size[0] < 0 else max(0, last - window_size[0])
            seen = slice(first, last + 1)
            weights = torch.softmax(torch.einsum("hd,khd->hk", query, keys[seen]) * scale, dim=-1)
            rows.append(torch.einsum("hk,khd->hd", weights, values[seen]))
    return torch.stack(rows)


def varlen_plain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
) -> Tensor:
    """The signature of older torch, which shares key-value heads without being told."""
    return varlen_grouped(q, k, v, cu_q, cu_k, max_q, max_k, scale=scale, window_size=window_size, enable_gqa=True)


def some_tensors(forest: Forest) -> list[Tensor]:
    """Query, key and value for the forest's tokens, fp32, with a gradient."""
    draw = torch.Generator().manual_seed(5)
    tokens = int(forest.query_starts_R1[-1])
    shapes = [(1, heads, tokens, WIDTH) for heads in (HEADS, GROUPS, GROUPS)]
    return [torch.randn(shape, generator=draw, requires_grad=True) for shape in shapes]


def by_loops(tensors: list[Tensor], forest: Forest, scaling: float | None, window: int | None) -> Tensor:
    return varlen_forest(*tensors, forest, scaling, window, varlen_grouped)


def by_sdpa(tensors: list[Tensor], forest: Forest, scaling: float | None, window: int | None) -> Tensor:
    """Each run as one attention under an explicit mask of its whole path."""
    query, key, value = tensors
    parts = []
    for start, end, first, last in forest.runs:
        path = forest.path_K[first:last]
        own = torch.arange(last - first - (end - start), last - first)[:, None]
        distance = own - torch.arange(last - first)
        mask = (distance >= 0) & (distance < (window or 1 << 30))
        one = F.scaled_dot_product_attention(
            query[:, :, start:end], key[:, :, path], value[:, :, path], mask, scale=scaling, enable_gqa=True
        )
        parts.append(one[0].transpose(0, 1))
    return torch.cat(parts)


def registered(tensors: list[Tensor], forest: Forest, scaling: float | None, window: int | None) -> Tensor:
    """What models call on this machine."""
    return forest_attention(nn.Module(), *tensors, None, forest=forest, scaling=scaling, sliding_window=window)[0][0]


WAYS: dict[str, Callable[[list[Tensor], Forest, float | None, int | None], Tensor]] = {
    "varlen, grouped": by_loops,
    "varlen, older": lambda t, f, s, w: varlen_forest(*t, f, s, w, varlen_plain),
    "registered": registered,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("window", [None, 2, 4, 1000])
@pytest.mark.parametrize("scaling", [None, 0.2])
@pytest.mark.parametrize("share", [True, False], ids=["forest", "packed"])
def test_every_way_equals_sdpa_run_by_run(way: str, window: int | None, scaling: float | None, share: bool) -> None:
    forest = pack(some_pairs(), share).forest
    tensors = some_tensors(forest)
    wanted, found = by_sdpa(tensors, forest, scaling, window), WAYS[way](tensors, forest, scaling, window)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    upstream = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(6))
    for one, other in zip(
        torch.autograd.grad((found * upstream).sum(), tensors), torch.autograd.grad((wanted * upstream).sum(), tensors)
    ):
        assert ((one - other).norm() / other.norm()).item() < 1e-5


def test_flash_pieces_equal_the_loops() -> None:
    forest = pack(some_pairs()).forest
    tensors = some_tensors(forest)
    found = flash_forest(*tensors, forest, None)[0].transpose(0, 1)
    torch.testing.assert_close(found, by_loops(tensors, forest, None, None), rtol=1e-5, atol=1e-5)


def test_flash_pieces_are_the_same_bits_from_run_to_run() -> None:
    forest = pack(some_pairs()).forest
    results = []
    for _ in range(3):
        tensors = some_tensors(forest)
        out = flash_forest(*tensors, forest, None)
        results.append([out.detach(), *torch.autograd.grad(out.square().sum(), tensors)])
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0], other))


def _forest_by_loops(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any) -> tuple:
    """forest_attention's CUDA branch, with the loops in place of the kernel."""
    forest, scaling = options.pop("forest"), options.pop("scaling")
    attention.refuse_unknown(module, mask, options.pop("dropout", 0.0), options)
    window = attention.sliding_window(module, options)
    return varlen_forest(query, key, value, forest, scaling, window, varlen_grouped)[None], None


AttentionInterface.register("forest_by_loops", _forest_by_loops)


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_a_whole_model_runs_on_the_cuda_path(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = some_pairs()
    model = tiny(name)
    wanted = loss_by_rows(model, pairs)
    theirs = gradients(model, wanted)
    monkeypatch.setattr(attention, "NAME", "forest_by_loops")
    policy = Policy(model)
    assert policy.padded_because is None
    loss = loss_by_forest(policy, pack(pairs))
    assert model.config._attn_implementation == "forest_by_loops"
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert_same_gradients(gradients(model, loss), theirs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch's varlen_attn runs on CUDA alone")
@pytest.mark.parametrize("window", [None, 4])
def test_the_kernel_itself_equals_the_loops(window: int | None) -> None:
    batch = pack(some_pairs()).to(torch.device("cuda"))
    exact = [torch.randn(1, n, batch.tokens, 64, device="cuda").bfloat16().float() for n in (HEADS, GROUPS, GROUPS)]
    found = varlen_forest(*(x.bfloat16() for x in exact), batch.forest, None, window, varlen_attn)
    wanted = varlen_forest(*exact, batch.forest, None, window, varlen_grouped)
    torch.testing.assert_close(found.float(), wanted, rtol=2e-2, atol=2e-2)


class Layer(nn.Module):
    """A layer as transformers' attention sees it."""

    def __init__(self, is_causal: bool = True, **config: Any) -> None:
        super().__init__()
        self.layer_idx, self.is_causal = 0, is_causal
        self.config = type("Config", (), config)()


REFUSED: dict[str, tuple[nn.Module, dict[str, Any], str]] = {
    "no forest": (Layer(), {"forest": None}, "does not hand the forest"),
    "mask": (Layer(), {"attention_mask": torch.zeros(1)}, "masks by itself"),
    "dropout": (Layer(), {"dropout": 0.1}, "dropout 0.1"),
    "sinks": (Layer(), {"s_aux": torch.zeros(HEADS)}, "`s_aux`"),
    "position bias": (Layer(), {"position_bias": torch.zeros(1)}, "`position_bias`"),
    "not causal": (Layer(), {"is_causal": False}, "not causal"),
    "encoder layer": (Layer(is_causal=False), {}, "not causal"),
    "unknown kind": (Layer(layer_types=["chunked_attention"]), {}, "kind chunked_attention"),
    "unsaid window": (Layer(sliding_window=4), {}, "which layers slide"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_forest_cannot_give_is_refused(case: str) -> None:
    module, options, words = REFUSED[case]
    forest = pack(some_pairs()).forest
    arguments = {"attention_mask": None, "forest": forest} | options
    with pytest.raises(ForestUnsupportedError, match=words):
        forest_attention(module, *some_tensors(forest), **arguments)


def test_a_soft_cap_is_honoured() -> None:
    forest = pack(some_pairs(), share=False).forest
    query, key, value = some_tensors(forest)
    found = forest_attention(Layer(), query, key, value, None, forest=forest, softcap=2.0)[0][0]
    start, end, _, _ = forest.runs[1]
    keys, values = (x[0, :, start:end].repeat_interleave(HEADS // GROUPS, 0) for x in (key, value))
    logits = 2.0 * torch.tanh(query[0, :, start:end] @ keys.transpose(1, 2) / math.sqrt(WIDTH) / 2.0)
    weights = torch.softmax(logits + torch.full(logits.shape[1:], -math.inf).triu(1), -1)
    torch.testing.assert_close(found[start:end], (weights @ values).transpose(0, 1), rtol=1e-5, atol=1e-5)


def other_decoder(name: str) -> PreTrainedModel:
    """Tiny random decoders whose attention is not plain."""
    torch.manual_seed(0)
    shape = {"vocab_size": 199, "hidden_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    experts = {"intermediate_size": 64, "num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": WINDOW}
    configs: dict[str, Any] = {
        "bloom": lambda: BloomConfig(**shape, n_layer=2, n_head=4, hidden_dropout=0.0, attention_dropout=0.0),
        "mamba": lambda: MambaConfig(**shape, num_hidden_layers=2, state_size=4),
        "gpt_oss": lambda: GptOssConfig(**shape, **heads, **experts),
        "gpt2": lambda: GPT2Config(**shape, n_layer=2, n_head=4, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0),
    }
    return AutoModelForCausalLM.from_config(configs[name](), dtype=torch.float32).eval()


@pytest.mark.parametrize(
    ("name", "reason"), [("bloom", "Bloom"), ("mamba", "Mamba"), ("gpt_oss", "s_aux"), ("gpt2", None)]
)
def test_a_decoder_that_cannot_share_is_named_and_gives_the_padded_numbers(name: str, reason: str | None) -> None:
    model, pairs = other_decoder(name), some_pairs()
    wanted = loss_by_rows(model, pairs)
    theirs = gradients(model, wanted)
    policy = Policy(model)
    assert policy.padded_because is None if reason is None else reason in str(policy.padded_because)
    if reason is not None:  # nothing of the forest is left on it: it generates as before
        assert model.config._attn_implementation != attention.NAME
    loss = loss_by_forest(policy, pack(pairs))
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert_same_gradients(gradients(model, loss), theirs)


def test_padded_and_shared_sums_are_two_ways_to_one_number() -> None:
    policy, batch = Policy(tiny("qwen2")), pack(some_pairs())
    torch.testing.assert_close(forest_sums(policy, batch), padded_sums(policy, batch), rtol=1e-5, atol=1e-5)


def test_the_loops_have_the_kernels_signature() -> None:
    def takes(kernel: VarlenKernel) -> list[str]:
        code = getattr(kernel, "__wrapped__", kernel).__code__
        return list(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])

    wanted = takes(varlen_attn)
    assert len(takes(varlen_grouped)) == 10
    assert {"scale", "window_size", "enable_gqa"} <= set(takes(varlen_grouped)) & set(wanted)
    assert wanted.index("scale") >= 7


def test_attention_that_drops_weights_is_found_before_the_first_step() -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=199, n_positions=64, n_embd=32, n_layer=1, n_head=2, attn_pdrop=0.1)
    policy = Policy(AutoModelForCausalLM.from_config(config))
    assert "drops attention weights" in str(policy.padded_because)
    policy.train()
    policy(pack(some_pairs())).mean_gap_B.sum().backward()
