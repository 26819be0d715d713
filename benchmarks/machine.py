"""The machine under measurement: what it is, how fast it multiplies matrices, how much memory a process took."""

import importlib.metadata
import os
import platform
import resource
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_tile")
PACKAGES = ("torch", "transformers", "peft", "trl", "liger-kernel")


def describe(device: torch.device) -> dict[str, Any]:
    """Processor, cores that this process may use, instruction sets that matter, GPU, and versions."""
    words = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = dict(line.split(":", 1) for line in words.splitlines() if ":" in line)
    cpu = {key.strip(): value.strip() for key, value in fields.items()}
    flags = set(cpu.get("flags", "").split())
    return {
        "processor": cpu.get("model name", platform.processor() or platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "instructions": [flag for flag in FLAGS if flag in flags],
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "system": platform.platform(),
        "versions": {name: version(name) for name in PACKAGES} | {"evenhand": commit()},
    }


def version(package: str) -> str | None:
    """The installed version, None where there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str:
    """The commit of evenhand that is measured, with a `+` where files differ from it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return version("evenhand") or "unknown"
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def peak_flops(dtype: torch.dtype, device: torch.device) -> float:
    """Operations per second of a large square matrix product, the best of ten after two to warm up."""
    width = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(width, width, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(12):
        began = now(device)
        torch.mm(a, b)
        seconds.append(now(device) - began)
    return 2 * width**3 / min(seconds[2:])


def now(device: torch.device) -> float:
    """Seconds on a clock that waits for the device's work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Memory:
    """Peak bytes above what is held when it is made: the device's on CUDA, else the process's resident memory."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)
        else:
            forget_peak()
            self.before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def peak(self) -> int:
        """Bytes above the start, so far."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self.before
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - self.before


def forget_peak() -> None:
    """Start the kernel's record of the peak afresh, so that loading does not count; some containers forbid it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return
