"""A safetensors file that is hashed while it is written: reading 1.6 GB back to hash it costs half a save."""

import functools
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_PIECE = 16 * 2**20
_DTYPES = {torch.float32: "F32", torch.float64: "F64", torch.bfloat16: "BF16", torch.int64: "I64", torch.uint8: "U8"}


@functools.cache
def _hashers(process: int) -> ThreadPoolExecutor:
    """One thread that hashes, for the life of the process; a fork has none of its parent's threads and gets its own."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="sha256")
    pool.submit(process.bit_length).result()
    return pool


def start_hashing() -> None:
    """Start the hashing thread while memory is there: where a limit is near, CPython can wait for ever for a new thread."""
    _hashers(os.getpid())


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write `tensors` durably; the file's length and SHA-256, of what was meant to be written.

    Raises OSError where the disk is full or fails, KeyError for a dtype that no checkpoint holds.
    """
    # Wide elements first, so that each tensor lies at a multiple of its element's size.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    hasher, length = hashlib.sha256(), 0
    pool = _hashers(os.getpid())
    with path.open("wb", buffering=0) as file:
        for piece in _pieces(ordered):
            hashed = pool.submit(hasher.update, piece)
            written = 0
            while written < len(piece):
                written += file.write(piece[written:])
            hashed.result()
            length += len(piece)
        os.fsync(file.fileno())
    return {"bytes": length, "sha256": hasher.hexdigest()}


def _pieces(tensors: list[tuple[str, Tensor]]) -> Iterator[memoryview]:
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
