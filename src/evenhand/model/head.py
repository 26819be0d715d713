"""Log-probabilities of given tokens from hidden states, in chunks, in fp32, never holding [tokens, vocabulary].

Shapes: N tokens, C tokens of a chunk, d hidden width, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# On a CPU more than this leaves the caches and is slower (docs/performance.md); a GPU spares this share of its memory.
_CPU_LOGIT_BYTES = 64 * 2**20
_GPU_SHARE = 1 / 64
_LEAST_CHUNK, _MOST_CHUNK = 64, 8192


@dataclass(frozen=True, slots=True)
class LogitForm:
    """What a decoder does to its logits: times `scale`, then cap * tanh(logit / cap) where `cap` is set."""

    scale: float = 1.0
    cap: float | None = None


def head_chunk(vocabulary: int, device: torch.device) -> int:
    """How many tokens have their logits at a time: a power of two.

    It follows from the memory that the device has, not from what is free, so that a run adds up in one order every time.
    """
    on_cuda = device.type == "cuda"
    room = torch.cuda.get_device_properties(device).total_memory * _GPU_SHARE if on_cuda else _CPU_LOGIT_BYTES
    tokens = int(room) // (torch.float32.itemsize * vocabulary)
    return min(max(1 << max(tokens.bit_length() - 1, 0), _LEAST_CHUNK), _MOST_CHUNK)


def token_log_probs(
    hidden_Nd: Tensor, weight_Vd: Tensor, bias_V: Tensor | None, target_N: Tensor, form: LogitForm, chunk: int
) -> Tensor:
    """log p(target) of each token, (N,) fp32, differentiable in hidden, weight and bias."""
    result: Tensor = _TokenLogProbs.apply(hidden_Nd, weight_Vd, bias_V, target_N, form, chunk)
    return result


class _TokenLogProbs(torch.autograd.Function):
    """With a frozen head the gradient with respect to the hidden state is a known vector times the caller's scalar:
    it is computed while the chunk's probabilities are at hand, and backward only scales it."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_Nd: Tensor,
        weight_Vd: Tensor,
        bias_V: Tensor | None,
        target_N: Tensor,
        form: LogitForm,
        chunk: int,
    ) -> Tensor:
        log_probs_N = hidden_Nd.new_empty(len(hidden_Nd), dtype=torch.float32)
        normaliser_N = torch.empty_like(log_probs_N)
        trains_head = weight_Vd.requires_grad or (bias_V is not None and bias_V.requires_grad)
        early = hidden_Nd.requires_grad and not trains_head
        gradient_Nd = torch.empty_like(hidden_Nd) if early else None
        for part in _chunks(len(hidden_Nd), chunk):
            logits_CV = _logits(hidden_Nd[part], weight_Vd, bias_V, form)
            target_C1 = target_N[part, None]
            goal_C = logits_CV.gather(1, target_C1)[:, 0]
            bend_CV = _bend(logits_CV, form) if early else None
            weights_CV, normaliser_N[part] = _exponentials(logits_CV)
            log_probs_N[part] = goal_C - normaliser_N[part]
            if gradient_Nd is not None:
                weights_CV.div_(-weights_CV.sum(1, keepdim=True))
                slope_CV = _slope(weights_CV, bend_CV, target_C1, form)
                torch.mm(slope_CV.to(hidden_Nd.dtype), weight_Vd, out=gradient_Nd[part])
        ctx.form, ctx.chunk, ctx.early = form, chunk, early
        ctx.save_for_backward(*((gradient_Nd,) if early else (hidden_Nd, weight_Vd, bias_V, target_N, normaliser_N)))
        return log_probs_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream_N: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.early:
            (gradient_Nd,) = ctx.saved_tensors
            return gradient_Nd * upstream_N[:, None].to(gradient_Nd.dtype), None, None, None, None, None
        hidden_Nd, weight_Vd, bias_V, target_N, normaliser_N = ctx.saved_tensors
        hidden_grad_Nd = torch.empty_like(hidden_Nd)
        weight_grad_Vd = torch.zeros_like(weight_Vd, dtype=torch.float32)
        bias_grad_V = None if bias_V is None else torch.zeros_like(bias_V, dtype=torch.float32)
        for part in _chunks(len(hidden_Nd), ctx.chunk):
            logits_CV = _logits(hidden_Nd[part], weight_Vd, bias_V, ctx.form)
            bend_CV = _bend(logits_CV, ctx.form)
            weights_CV = logits_CV.sub_(normaliser_N[part, None]).exp_().neg_()
            slope_CV = _slope(weights_CV, bend_CV, target_N[part, None], ctx.form).mul_(upstream_N[part, None])
            if bias_grad_V is not None:
                bias_grad_V += slope_CV.sum(0)
            slope_CV = slope_CV.to(hidden_Nd.dtype)
            torch.mm(slope_CV, weight_Vd, out=hidden_grad_Nd[part])
            if weight_grad_Vd.dtype == hidden_Nd.dtype:
                weight_grad_Vd.addmm_(slope_CV.T, hidden_Nd[part])
            else:
                weight_grad_Vd += slope_CV.T @ hidden_Nd[part]
        bias_grad = None if bias_grad_V is None or bias_V is None else bias_grad_V.to(bias_V.dtype)
        return hidden_grad_Nd, weight_grad_Vd.to(weight_Vd.dtype), bias_grad, None, None, None


def _chunks(tokens: int, chunk: int) -> list[slice]:
    return [slice(start, min(start + chunk, tokens)) for start in range(0, tokens, chunk)]


def _logits(hidden_Cd: Tensor, weight_Vd: Tensor, bias_V: Tensor | None, form: LogitForm) -> Tensor:
    """Logits in fp32 as the decoder itself makes them."""
    logits_CV = torch.nn.functional.linear(hidden_Cd, weight_Vd, bias_V).float()
    if form.scale != 1.0:
        logits_CV = logits_CV.mul_(form.scale)
    if form.cap is not None:
        logits_CV = logits_CV.div_(form.cap).tanh_().mul_(form.cap)
    return logits_CV


def _exponentials(logits_CV: Tensor) -> tuple[Tensor, Tensor]:
    """exp(logit - largest) in place of the logits, and log sum exp of them; one pass of exponentials serves both."""
    largest_C1 = logits_CV.amax(1, keepdim=True)
    weights_CV = logits_CV.sub_(largest_C1).exp_()
    return weights_CV, weights_CV.sum(1).log_().add_(largest_C1[:, 0])


def _bend(logits_CV: Tensor, form: LogitForm) -> Tensor | None:
    """The derivative of the soft cap, None without one."""
    return None if form.cap is None else 1 - (logits_CV / form.cap) ** 2


def _slope(negative_CV: Tensor, bend_CV: Tensor | None, target_C1: Tensor, form: LogitForm) -> Tensor:
    """d log p(target) / d raw logits, made in place of the negative probabilities."""
    negative_CV.scatter_add_(1, target_C1, torch.ones_like(target_C1, dtype=negative_CV.dtype))
    if bend_CV is not None:
        negative_CV.mul_(bend_CV)
    return negative_CV.mul_(form.scale) if form.scale != 1.0 else negative_CV
