"""The processes of one run: who this one is, what all of them add up to, and how they start and end together."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from evenhand.errors import LostRankError
from evenhand.training.lifeline import Lifeline

# Rank 0 may evaluate for long while the others wait; one that died is noticed at once, whatever this says.
PATIENCE = timedelta(hours=6)
_BUCKET_BYTES = 64 * 2**20
_LOST = ("connection closed", "closed by peer", "reset by peer", "broken pipe", "connection refused", "timed out")


@dataclass(frozen=True, slots=True)
class Ranks:
    """One process among `size`. Words and numbers travel through the CPU; gradients through their own device."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def add(self, values_N: Tensor) -> Tensor:
        """The sum over ranks, in float64 on the CPU; the same bits on each rank."""
        total_N = values_N.detach().to("cpu", torch.float64, copy=True)
        if self.size > 1:
            dist.all_reduce(total_N)
        return total_N

    def add_in_place(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one dtype by their sums over ranks, some at a time in one message."""
        if self.size == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            dist.all_reduce(flat)
            for tensor, part in zip(bucket, flat.split([tensor.numel() for tensor in bucket])):
                tensor.copy_(part.view_as(tensor))

    def largest(self, number: float) -> float:
        """The largest of the ranks' numbers."""
        return max(self.gather(number))

    def gather(self, value: Any) -> list[Any]:
        """Every rank's JSON value, in the order of ranks."""
        if self.size == 1:
            return [value]
        said = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(said)]))
        padded = torch.zeros(max(int(length) for length in lengths), dtype=torch.uint8)
        padded[: len(said)] = said
        parts = [torch.zeros_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return [json.loads(bytes(part[: int(length)].tolist())) for part, length in zip(parts, lengths)]

    def from_first(self, value: Any) -> Any:
        """Rank 0's JSON value, whatever the others gave."""
        return self.gather(value if self.first else None)[0]

    def wait(self) -> None:
        """Go on when all ranks are here."""
        self.gather(None)


def launched_ranks() -> Ranks:
    """What `torchrun` or `accelerate launch` told this process; one of one where none of them started it."""
    return Ranks(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


@contextmanager
def ranks_joined() -> Iterator[Ranks]:
    """Join the other ranks until the end of the block; inside another such block, the same ranks again.

    Raises LostRankError where one of them dies, in seconds and wherever this one is waiting.
    """
    ranks = launched_ranks()
    if ranks.size == 1 or dist.is_initialized():
        yield ranks
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    lifeline = None
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
        lifeline = Lifeline.tied(ranks.rank, ranks.size, ranks.from_first)
        yield ranks
        ranks.wait()
        lifeline.untie()
        dist.destroy_process_group()
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or any(word in str(error).lower() for word in _LOST)):
            raise
        raise LostRankError(
            f"rank {ranks.rank} of {ranks.size} lost another one; start the same command again, and the run goes on from "
            "its last checkpoint."
        ) from error


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and size + tensor.nbytes > _BUCKET_BYTES:
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.nbytes
    if bucket:
        yield bucket
