"""How much memory there is, how much this process has held at most, and which errors say that it ran out."""

import ctypes
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch

from evenhand.errors import StepTooLargeError
from evenhand.training.ranks import Ranks

Result = TypeVar("Result")

_CGROUP = Path("/sys/fs/cgroup")
_OUT_OF_MEMORY = ("can't allocate memory", "cannot allocate memory", "std::bad_alloc", "out of memory")


def memory_peak_bytes(device: torch.device) -> int:
    """The most memory this process has held: on the GPU if there is one, else resident in the machine's."""
    on_cuda = device.type == "cuda"
    now = torch.cuda.max_memory_allocated(device) if on_cuda else _status_bytes("VmHWM")
    return max(now, PeakWatch.highest_before)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` is a refused allocation: torch tells of one in a RuntimeError on a CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)


def or_too_large(compute: Callable[[], Result], ranks: Ranks, in_step: bool) -> Result:
    """What `compute` gives on this rank; raises StepTooLargeError on every rank alike where memory runs out on one.

    `in_step` where forwards must match: ranks that wait for each other cannot turn back, and the error passes as it is.
    """
    found: list[Result] = []
    ran_out = ""
    try:
        found.append(compute())
    except (RuntimeError, MemoryError) as error:
        if in_step or not is_out_of_memory(error):
            raise
        ran_out = str(error) or "no more of it"
    if ranks.largest(bool(ran_out)):  # outside of the block, whose error holds on to all that was computed
        raise StepTooLargeError(f"memory ran out during a step: {ran_out or 'on another rank'}")
    return found[0]


def free_bytes(device: torch.device) -> int:
    """What can still be allocated: on a GPU, what the driver and torch's cache have; else what the machine and every
    cgroup of this process leave."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return min([available, *_cgroup_rooms(_CGROUP, Path("/proc/self/cgroup").read_text(encoding="utf-8"))])


def _cgroup_rooms(root: Path, own: str) -> list[int]:
    """Limit less use of every cgroup that `own`, the text of /proc/self/cgroup, names, and of those above them.

    Version 2 has one hierarchy; version 1 has one for memory, under `memory/`.
    """
    rooms: list[int] = []
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            hierarchy, names, droppable = root, ("memory.max", "memory.current"), "inactive_file "
        elif "memory" in controllers.split(","):
            names, droppable = ("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_inactive_file "
            hierarchy = root / "memory"
        else:
            continue
        place = hierarchy / path.strip("/")
        for folder in (place, *(above for above in place.parents if above.is_relative_to(hierarchy))):
            rooms += _room(folder, names, droppable)
    return rooms


def _room(folder: Path, names: tuple[str, str], droppable: str) -> list[int]:
    """The room of one cgroup, none where it has no limit; file pages that can be dropped do not count as used."""
    try:
        limit, used = ((folder / name).read_text(encoding="ascii").strip() for name in names)
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    if not limit.isdigit():
        return []
    files = sum(int(line.split()[1]) for line in lines if line.startswith(droppable))
    return [max(0, int(limit) - int(used) + files)]


class PeakWatch:
    """The most memory held between its making and `grown`, beyond what was held at its making."""

    highest_before = 0  # what the system forgets when its peak is reset

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            PeakWatch.highest_before = max(PeakWatch.highest_before, torch.cuda.max_memory_allocated(device))
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)
        else:
            PeakWatch.highest_before = max(PeakWatch.highest_before, _status_bytes("VmHWM"))
            with suppress(AttributeError):  # only glibc keeps what was freed, and has this to give it back
                ctypes.CDLL(None).malloc_trim(0)
            with suppress(OSError):  # where the system refuses, `grown` is an upper bound
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            self._before = _status_bytes("VmRSS")

    def grown(self) -> int:
        """Bytes; on a CPU resident ones."""
        now = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else _status_bytes("VmHWM")
        return max(0, now - self._before)


def _status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
