"""Liger's kernels: asked for by its public function, on this model alone, without its cross-entropy."""

from types import ModuleType
from typing import Any

import pytest
import torch
from architectures import tiny
from transformers import PreTrainedModel
from transformers.models.llama import modeling_llama

from evenhand.model import liger
from evenhand.model.forward import Policy, padded_sums, probe_batch


class Recorder(ModuleType):
    """A module with a function of the signature of Liger 0.8's for Llama, which keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__("recorder")
        self.asked: list[dict[str, Any]] = []

    def apply_liger_kernel_to_llama(
        self,
        rope: bool = True,
        cross_entropy: bool = False,
        fused_linear_cross_entropy: bool = True,
        rms_norm: bool = True,
        swiglu: bool = True,
        model: PreTrainedModel | None = None,
    ) -> None:
        self.asked.append({"model": model, "losses": (cross_entropy, fused_linear_cross_entropy)})
        modeling_llama.LlamaRMSNorm = torch.nn.RMSNorm
        modeling_llama.apply_rotary_pos_emb = lambda *args, **options: "on CUDA"


def test_one_model_is_patched_and_the_library_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", modeling_llama.apply_rotary_pos_emb)
    norm, model, recorder = modeling_llama.LlamaRMSNorm, tiny("llama"), Recorder()
    before = padded_sums(Policy(model), probe_batch(199))
    assert liger.engage_from(recorder, model) == "Liger's rope, rms_norm, swiglu"
    assert liger.engage_from(recorder, model) == "Liger's rope, rms_norm, swiglu"
    assert recorder.asked == [{"model": model, "losses": (False, False)}]
    assert modeling_llama.LlamaRMSNorm is norm
    # RoPE is shared by all models of the architecture: on a CPU it stays transformers' own.
    assert torch.equal(padded_sums(Policy(model), probe_batch(199)), before)


def test_an_architecture_that_liger_does_not_know_runs_without() -> None:
    assert liger.engage_from(Recorder(), tiny("phi")) is None


def test_a_cpu_never_asks_for_it() -> None:
    assert liger.engage(tiny("llama")) is None
    assert Policy(tiny("llama")).kernels == ()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="Liger's kernels run on CUDA alone")
@pytest.mark.parametrize("name", ["llama", "qwen2", "mistral", "gemma2"])
def test_ligers_kernels_give_transformers_numbers(name: str) -> None:
    pytest.importorskip("liger_kernel.transformers", reason="liger-kernel is not installed", exc_type=ImportError)
    batch = probe_batch(199)
    wanted = padded_sums(Policy(tiny(name)), batch)
    policy = Policy(tiny(name).cuda())
    assert any("Liger" in kernel for kernel in policy.kernels)
    found = padded_sums(policy, batch.to(policy.device)).cpu()
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
