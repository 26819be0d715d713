"""Encoded pairs in one memory-mapped file: written once, while encoding, and read as views that copy nothing.

Shapes: N pairs, T tokens of a side end to end, N1 = N + 1 borders between pairs.
"""

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from evenhand.data.schema import Refusal
from evenhand.files import sha256_file, storage_error, sync_directory, write_json
from evenhand.model.encode import EncodedPair, EncodedSide, Encoding, Tokens

BATCH_PAIRS = 1024
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("id", pa.string()),
        ("group", pa.string()),
        ("chosen", pa.list_(pa.int32())),
        ("chosen_starts", pa.int32()),
        ("rejected", pa.list_(pa.int32())),
        ("rejected_starts", pa.int32()),
        ("cut", pa.list_(pa.string())),
    ]
)


@dataclass(frozen=True, slots=True)
class SideColumn:
    """One side of some pairs: the tokens of pair k are `tokens_T[borders_N1[k]:borders_N1[k + 1]]`."""

    tokens_T: Tokens
    borders_N1: npt.NDArray[np.int32]
    starts_N: npt.NDArray[np.int32]

    @classmethod
    def of(cls, batch: Any, name: str) -> "SideColumn":
        """The views of a record batch's columns."""
        lists = batch.column(name)
        return cls(lists.values.to_numpy(), lists.offsets.to_numpy(), batch.column(f"{name}_starts").to_numpy())

    @property
    def lengths_N(self) -> npt.NDArray[np.int32]:
        """Tokens of each side, prompt included."""
        return np.diff(self.borders_N1)

    def side(self, k: int) -> EncodedSide:
        """The side of pair `k`, its tokens a view."""
        return EncodedSide(self.tokens_T[self.borders_N1[k] : self.borders_N1[k + 1]], int(self.starts_N[k]))


@dataclass(frozen=True, slots=True)
class Block:
    """Some pairs as columns."""

    batch: Any
    chosen: SideColumn
    rejected: SideColumn

    @classmethod
    def of(cls, batch: Any) -> "Block":
        """The views of a record batch."""
        return cls(batch, SideColumn.of(batch, "chosen"), SideColumn.of(batch, "rejected"))

    def pair(self, k: int) -> EncodedPair:
        """Pair `k` of the block."""
        row, name, group, cut = (self.batch.column(column)[k].as_py() for column in ("row", "id", "group", "cut"))
        return EncodedPair(row, name, group, self.chosen.side(k), self.rejected.side(k), tuple(cut))


class TokenStore(Sequence[EncodedPair]):
    """The pairs of a file that `write_store` wrote. It stays on disk: what is looked at is mapped, nothing is copied."""

    def __init__(self, path: Path) -> None:
        self.path = path
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self.blocks = tuple(Block.of(reader.get_batch(i)) for i in range(reader.num_record_batches))
        self._ends = tuple(accumulate(block.batch.num_rows for block in self.blocks))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> EncodedPair: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[EncodedPair, ...]: ...
    def __getitem__(self, index: int | slice) -> EncodedPair | tuple[EncodedPair, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        number = bisect_right(self._ends, at)
        return self.blocks[number].pair(at - (self._ends[number - 1] if number else 0))

    def __iter__(self) -> Iterator[EncodedPair]:
        return (block.pair(k) for block in self.blocks for k in range(block.batch.num_rows))


def stored_encoding(
    folder: Path, name: str, key: str, encode: Callable[[], Iterable[EncodedPair | Refusal]]
) -> Encoding:
    """The encoding that `key` names: read from `folder` if it is there and whole, else made by `encode` and kept.

    `key` hashes everything that decides the tokens. Files of `name` under other keys are removed. Where no pair can be
    encoded nothing is written. Raises StorageError where the disk fails or is full.
    """
    path = folder / f"{name}-{key[:16]}.arrow"
    refusals = _verified_refusals(path, key)
    if refusals is None:
        refusals = []
        pairs = _pairs_of(encode(), refusals)
        first = next(pairs, None)
        if first is None:
            return Encoding((), tuple(refusals))
        write_store(path, chain([first], pairs))
        about = {"key": key, **_described(path), "refusals": [refusal.json() for refusal in refusals]}
        write_json(path.with_suffix(".json"), about)
        for stale in folder.glob(f"{name}-*.*"):
            if stale.stem != path.stem:
                stale.unlink()
    return Encoding(TokenStore(path), tuple(refusals))


def _pairs_of(found: Iterable[EncodedPair | Refusal], refusals: list[Refusal]) -> Iterator[EncodedPair]:
    """The pairs, one by one; refusals between them are added to `refusals`."""
    for one in found:
        if isinstance(one, EncodedPair):
            yield one
        else:
            refusals.append(one)


def _verified_refusals(path: Path, key: str) -> list[Refusal] | None:
    """What was refused when the file was written; None where it is not there, not whole, or not of `key`."""
    try:
        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if about["key"] != key or {name: about[name] for name in ("bytes", "sha256")} != _described(path):
            return None
        return [Refusal(**refusal) for refusal in about["refusals"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _described(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


def write_store(path: Path, pairs: Iterable[EncodedPair]) -> None:
    """Write the pairs to `path` a batch at a time, whole or not at all; raises StorageError where the disk fails."""
    staging = path.with_name(f".{path.name}.staging-{os.getpid()}")
    written = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with staging.open("wb") as file:
            with pa.ipc.new_file(file, SCHEMA) as writer:
                for some in _some_at_a_time(pairs):
                    batch = record_batch(some)
                    written += batch.nbytes
                    writer.write_batch(batch)
            file.flush()
            os.fsync(file.fileno())
        staging.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise storage_error(error, path, written) from error
    finally:
        staging.unlink(missing_ok=True)


def _some_at_a_time(pairs: Iterable[EncodedPair]) -> Iterator[tuple[EncodedPair, ...]]:
    rest = iter(pairs)
    while some := tuple(islice(rest, BATCH_PAIRS)):
        yield some


def record_batch(pairs: Sequence[EncodedPair]) -> Any:
    """The pairs as one Arrow record batch."""
    columns = [
        pa.array([pair.row for pair in pairs], pa.int64()),
        pa.array([pair.id for pair in pairs], pa.string()),
        pa.array([pair.group for pair in pairs], pa.string()),
        *_side_arrays([pair.chosen for pair in pairs]),
        *_side_arrays([pair.rejected for pair in pairs]),
        pa.array([pair.cut for pair in pairs], pa.list_(pa.string())),
    ]
    return pa.record_batch(columns, schema=SCHEMA)


def _side_arrays(sides: Sequence[EncodedSide]) -> tuple[Any, Any]:
    borders = np.cumsum([0] + [len(side.tokens) for side in sides], dtype=np.int32)
    tokens = pa.array(np.concatenate([side.tokens for side in sides]), pa.int32())
    lists = pa.ListArray.from_arrays(pa.array(borders, pa.int32()), tokens)
    return lists, pa.array([side.starts for side in sides], pa.int32())


def blocks_of(pairs: Sequence[EncodedPair]) -> Iterator[Block]:
    """Any pairs as columns, some at a time; those of a store as they lie on disk."""
    if isinstance(pairs, TokenStore):
        yield from pairs.blocks
    else:
        yield from (Block.of(record_batch(some)) for some in _some_at_a_time(pairs))


def rows_of(pairs: Sequence[EncodedPair]) -> npt.NDArray[np.int64]:
    """The input row of each pair."""
    return np.concatenate([block.batch.column("row").to_numpy() for block in blocks_of(pairs)] or [np.zeros(0, int)])


def side_lengths(pairs: Sequence[EncodedPair]) -> npt.NDArray[np.int64]:
    """Tokens of chosen and of rejected, prompt included: one line a pair."""
    found = [np.stack([block.chosen.lengths_N, block.rejected.lengths_N], axis=1) for block in blocks_of(pairs)]
    return np.concatenate(found or [np.zeros((0, 2), int)]).astype(np.int64)


def count_cut(pairs: Sequence[EncodedPair]) -> int:
    """How many pairs have a side that was cut to fit."""
    return sum(
        int(np.count_nonzero(np.diff(block.batch.column("cut").offsets.to_numpy()))) for block in blocks_of(pairs)
    )


def group_numbers(pairs: Sequence[EncodedPair]) -> npt.NDArray[np.int32]:
    """The group of each pair as a number, in the order in which groups first appear."""
    groups = pa.chunked_array([block.batch.column("group") for block in blocks_of(pairs)], pa.string())
    numbers: npt.NDArray[np.int32] = groups.combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int32)
    return numbers


def tokens_hash(pairs: Sequence[EncodedPair]) -> str:
    """One hash of all tokens, of where answers start, and of which pairs stay together; the same for any sequence."""
    columns = [hashlib.sha256() for _ in range(6)]
    for block in blocks_of(pairs):
        for side, (lengths, starts, tokens) in ((block.chosen, columns[:3]), (block.rejected, columns[3:])):
            lengths.update(side.lengths_N.data)
            starts.update(side.starts_N.data)
            tokens.update(side.tokens_T.data)
    whole = hashlib.sha256(group_numbers(pairs).data)
    for column in columns:
        whole.update(column.digest())
    return whole.hexdigest()
