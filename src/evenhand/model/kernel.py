"""Which attention kernel a CUDA device runs a forest with, and in words why it cannot be the one call for all runs."""

from importlib.util import find_spec

import torch
from torch import Tensor

# What torch's FlashAttention-2 takes; FlashAttention-3 runs on Hopper alone.
OLDEST, HOPPER = (8, 0), 9
WIDEST, MULTIPLE = 256, 8
_FA3 = "FA3"


def why_run_by_run(query_1HTD: Tensor, cap: float | None) -> str | None:
    """None where one call of varlen_attn does all runs, else the reason; asks the device what it is."""
    if not query_1HTD.is_cuda:
        return "torch's varlen_attn runs on CUDA alone"
    capability = torch.cuda.get_device_capability(query_1HTD.device)
    return unfit(capability, query_1HTD.dtype, query_1HTD.shape[-1], cap)


def unfit(capability: tuple[int, int], dtype: torch.dtype, width: int, cap: float | None) -> str | None:
    """Why torch's varlen_attn cannot run heads of `width` in `dtype` on a device of this compute capability."""
    if capability < OLDEST:
        return f"the GPU's compute capability is {capability[0]}.{capability[1]} and flash attention needs 8.0"
    if dtype not in (torch.bfloat16, torch.float16):
        return f"the model computes in {str(dtype).removeprefix('torch.')} and flash attention takes bfloat16"
    if width > WIDEST or width % MULTIPLE:
        return f"heads are {width} wide and flash attention takes multiples of {MULTIPLE} up to {WIDEST}"
    if cap is not None:
        return f"logits are capped at {cap:g} and torch's flash attention caps none"
    return None


def activate(device: torch.device) -> str | None:
    """Let torch's flash attention be the newest that this device and installation have; its name, None off CUDA.

    FlashAttention-3 comes with the package `flash_attn_interface`. Once chosen it serves the whole process.
    """
    if device.type != "cuda":
        return None
    return newest(torch.cuda.get_device_capability(device))


def newest(capability: tuple[int, int]) -> str | None:
    """Activate and name the newest flash attention for this compute capability, None where none runs."""
    if capability < OLDEST:
        return None
    # torch 2.11 has these; an older or a newer one may not.
    start = getattr(torch.nn.attention, "activate_flash_attention_impl", None)
    current = getattr(torch.nn.attention, "current_flash_attention_impl", None)
    if start is None or current is None or capability[0] != HOPPER or find_spec("flash_attn_interface") is None:
        return "FlashAttention-2"
    try:
        if current() != _FA3:
            start(_FA3)
    except (ValueError, RuntimeError, ImportError, OSError):  # built without backward, or for another torch
        return "FlashAttention-2"
    return "FlashAttention-3"
