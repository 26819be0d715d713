"""Safetensors files that are hashed while they are written, since reading 1.6 GB back to hash it costs half a save.

SHA-256 of one file is one core's work, and on a processor without instructions for it slower than a disk. So a large state is
several files: one thread writes them by turns, and each has a thread of its own that hashes it from memory.
"""

import functools
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

_PIECE = 16 * 2**20
_LEAST_FILE = 4 * _PIECE
_MOST_FILES = 4
_DTYPES = {torch.float32: "F32", torch.float64: "F64", torch.bfloat16: "BF16", torch.int64: "I64", torch.uint8: "U8"}
_Named = list[tuple[str, Tensor]]


@functools.cache
def _hashers(process: int) -> Sequence[ThreadPoolExecutor]:
    """Threads that hash a file each, for the life of the process; a fork has none of its parent's and gets its own."""
    count = min(_MOST_FILES, len(os.sched_getaffinity(0)))
    pools = [ThreadPoolExecutor(1, thread_name_prefix="sha256") for _ in range(count)]
    for pool in pools:
        pool.submit(process.bit_length).result()
    return pools


def start_hashing() -> None:
    """Start the hashing threads while memory is there: where a limit is near, CPython can wait for ever for a new one."""
    _hashers(os.getpid())


def write_tensors(folder: Path, stem: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write `tensors` durably to `STEM.safetensors`, or, where they are large, to `STEM.part1.safetensors` and so on.

    By file name the length and SHA-256 of what was meant to be written. Raises OSError where the disk is full or fails,
    KeyError for a dtype that no checkpoint holds.
    """
    pools = _hashers(os.getpid())
    parts = _parted(tensors, len(pools))
    names = (
        [f"{stem}.part{i}.safetensors" for i in range(1, len(parts) + 1)] if len(parts) > 1 else [f"{stem}.safetensors"]
    )
    hashers, lengths = [hashlib.sha256() for _ in parts], [0] * len(parts)
    waiting: list[Future[None]] = []
    with ExitStack() as opened:
        files = [opened.enter_context((folder / name).open("wb", buffering=0)) for name in names]
        # A piece is the tensor's own memory, so that hashing may fall behind writing and takes none.
        for turn in zip_longest(*map(_pieces, parts)):
            for i, piece in enumerate(turn):
                if piece is not None:
                    waiting.append(pools[i].submit(hashers[i].update, piece))
                    _write(files[i], piece)
                    lengths[i] += len(piece)
        for file in files:
            os.fsync(file.fileno())
        for hashed in waiting:
            hashed.result()
    digests = [hasher.hexdigest() for hasher in hashers]
    return {n: {"bytes": length, "sha256": digest} for n, length, digest in zip(names, lengths, digests)}


def _write(file: BinaryIO, piece: memoryview) -> None:
    written = 0
    while written < len(piece):
        written += file.write(piece[written:])


def _parted(tensors: Mapping[str, Tensor], most: int) -> list[_Named]:
    """The tensors in at most `most` files of about the same size, none of them small."""
    # Wide elements first, so that each tensor lies at a multiple of its element's size.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    count = max(1, min(most, sum(tensor.nbytes for tensor in tensors.values()) // _LEAST_FILE))
    parts: list[_Named] = [[] for _ in range(count)]
    sizes = [0] * count
    for name, tensor in ordered:
        smallest = sizes.index(min(sizes))
        parts[smallest].append((name, tensor))
        sizes[smallest] += tensor.nbytes
    return parts


def _pieces(tensors: _Named) -> Iterator[memoryview]:
    """The file's bytes: the length of the header, the header, and each tensor's own memory."""
    header: dict[str, Any] = {}
    offset = 0
    for name, tensor in tensors:
        place = [offset, offset + tensor.nbytes]
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place}
        offset = place[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for _, tensor in tensors:
        content = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
        for start in range(0, len(content), _PIECE):
            yield content[start : start + _PIECE]
