"""`training.deterministic`: the same bits from run to run, and what that switches in torch."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def fix_workspace(asked: bool | None, device: torch.device) -> None:
    """Give cuBLAS the workspace that deterministic products need, where they are asked for and none is set.

    torch looks for it at its first product on CUDA and never again: call this before a model runs, or every product of
    a deterministic run raises.
    """
    if _is_on(asked, device) and device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def _is_on(asked: bool | None, device: torch.device) -> bool:
    return device.type == "cpu" if asked is None else asked


@contextmanager
def determinism(asked: bool | None, device: torch.device) -> Iterator[bool]:
    """Run with torch's deterministic kernels where `asked`; left out, on a CPU and not on CUDA. Yields which.

    What torch was set to before comes back at the end. On CUDA `fix_workspace` has to come first.
    """
    chosen = _is_on(asked, device)
    before = (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(chosen)
    memory.fill_uninitialized_memory = False  # costs a pass over memory and moves no number here
    try:
        yield chosen
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = filled
