"""The kernel that suits a device, by its numbers alone; what a CPU cannot run is skipped by name."""

import pytest
import torch
from architectures import tiny
from test_parity import some_pairs

from evenhand.model import kernel
from evenhand.model.forward import Policy
from evenhand.model.pack import pack

HALF = torch.bfloat16


@pytest.mark.parametrize("width", [64, 128, 256])
@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (9, 0), (12, 0)])
def test_what_flash_attention_takes_is_one_call(capability: tuple[int, int], width: int) -> None:
    assert kernel.unfit(capability, HALF, width, None) is None


@pytest.mark.parametrize(
    ("capability", "dtype", "width", "cap", "words"),
    [
        ((7, 5), HALF, 64, None, "compute capability is 7.5"),
        ((9, 0), torch.float32, 64, None, "float32"),
        ((9, 0), HALF, 320, None, "320 wide"),
        ((9, 0), HALF, 68, None, "68 wide"),
        ((9, 0), HALF, 64, 50.0, "capped at 50"),
    ],
)
def test_what_it_does_not_take_is_named(
    capability: tuple[int, int], dtype: torch.dtype, width: int, cap: float | None, words: str
) -> None:
    assert words in str(kernel.unfit(capability, dtype, width, cap))


@pytest.mark.parametrize("capability", [(8, 0), (9, 0), (12, 0)])
def test_without_its_package_there_is_no_third_version(capability: tuple[int, int]) -> None:
    if kernel.find_spec("flash_attn_interface"):
        pytest.skip("flash_attn_interface is installed")
    assert kernel.newest(capability) == "FlashAttention-2"
    assert torch.nn.attention.current_flash_attention_impl() is None


def test_a_broken_third_version_falls_back_to_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "find_spec", lambda name: object())  # its import then fails inside torch
    assert kernel.newest((9, 0)) == "FlashAttention-2"
    assert kernel.newest((7, 5)) is None


def test_a_cpu_says_nothing() -> None:
    policy = Policy(tiny("gemma2"))  # soft caps go run by run everywhere
    assert policy.run_by_run_because is None
    assert policy.words() == []


def test_attention_leaves_its_reason_with_the_forest() -> None:
    batch = pack(some_pairs())
    Policy(tiny("gemma2"))(batch)
    assert batch.forest.reasons == {"torch's varlen_attn runs on CUDA alone"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="asks a CUDA device what it is")
def test_fp32_on_cuda_goes_run_by_run_and_says_so_once() -> None:
    policy = Policy(tiny("llama").cuda())
    assert policy.padded_because is None
    assert "float32" in str(policy.run_by_run_because)
    assert sum("run by run" in sentence for sentence in policy.words()) == 1
