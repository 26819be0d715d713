"""Scores of a reference kept in a file, under hashes of all that decides them, and looked up by a pair's tokens.

Shapes: B pairs, N pairs of the cache.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from evenhand.errors import DataError
from evenhand.files import sha256_file, write_json
from evenhand.model.encode import EncodedPair
from evenhand.model.pack import PackedBatch
from evenhand.model.reference import Scorer
from evenhand.model.scores import Floats, PairScores, ScoredPairs

Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True, eq=False)
class CachedScores:
    """Sums that were computed once, by the pair's tokens; `keys_N` are sorted."""

    keys_N: Keys
    chosen_sum_N: Floats
    rejected_sum_N: Floats
    device: torch.device

    def __call__(self, batch: Sequence[EncodedPair], _packed: PackedBatch, /) -> PairScores:
        """Looked up; raises DataError for a pair that was not scored."""
        return self.lookup(batch).tensors(self.device)

    def scored(self, pairs: Sequence[EncodedPair], _scorer: Scorer, /) -> ScoredPairs:
        """Looked up; nothing is computed."""
        return self.lookup(pairs)

    def lookup(self, pairs: Sequence[EncodedPair]) -> ScoredPairs:
        """The scores of these pairs; raises DataError for a pair that was not scored."""
        keys_B = pair_keys(pairs)
        at_B = np.minimum(np.searchsorted(self.keys_N, keys_B), len(self.keys_N) - 1)
        if len(missing := np.flatnonzero(self.keys_N[at_B] != keys_B)):
            raise DataError(
                f"row {pairs[int(missing[0])].row} has no cached reference score; remove the cache, and it is made again."
            )
        return ScoredPairs.of(pairs, self.chosen_sum_N[at_B], self.rejected_sum_N[at_B])

    def words(self) -> str:
        """The arrays, in MiB."""
        held = self.keys_N.nbytes + self.chosen_sum_N.nbytes + self.rejected_sum_N.nbytes
        return f"the reference is {len(self.keys_N)} cached scores: {held / 2**20:.1f} MiB, no forward"


def keep_scores(
    path: Path, key: Mapping[str, str], pairs: Sequence[EncodedPair], make: Callable[[], ScoredPairs]
) -> None:
    """See that `path` (Parquet, with a JSON beside it) holds the reference's scores of `pairs`; `make` computes them once.

    `key` names what decides them: model, data, template, tokenizer and precision, each by its hash. Raises DataError for
    a file that was made from something else, or is not as it was written.
    """
    about = path.with_suffix(".json")
    if about.exists():
        _verify(path, about, key)
        return
    found = make()
    table = found.table().append_column("key", pa.array(pair_keys(pairs)))
    found.write(path, table)
    write_json(about, {"key": dict(key), "pairs": len(found), "sha256": sha256_file(path)})


def _verify(path: Path, about: Path, key: Mapping[str, str]) -> None:
    try:
        described = json.loads(about.read_text(encoding="utf-8"))
        before, hashed = described["key"], described["sha256"]
        whole = path.exists() and sha256_file(path) == hashed
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{about} is damaged; remove {path.parent}, and the reference is scored again.") from error
    if different := sorted(name for name in before.keys() | key.keys() if before.get(name) != key.get(name)):
        raise DataError(
            f"{path} holds reference scores of another {', '.join(different)}; name another cache, or remove this one."
        )
    if not whole:
        raise DataError(f"{path} is not as it was written; remove {path.parent}, and the reference is scored again.")


def read_cache(path: Path, device: torch.device) -> CachedScores:
    """The scores in a file that `keep_scores` has seen to."""
    found = ScoredPairs.read(path)
    keys_N = pq.read_table(path, columns=["key"])["key"].to_numpy()
    order_N = np.argsort(keys_N, kind="stable")
    return CachedScores(keys_N[order_N], found.chosen_sum_B[order_N], found.rejected_sum_B[order_N], device)


def pair_keys(pairs: Sequence[EncodedPair]) -> Keys:
    """A 64-bit hash of each pair's tokens and of where its answers start."""
    return np.array([_key(pair) for pair in pairs], dtype=np.uint64)


def _key(pair: EncodedPair) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for side in (pair.chosen, pair.rejected):
        digest.update(f"{len(side.tokens)} {side.starts} ".encode())
        digest.update(np.ascontiguousarray(side.tokens).data)
    return int.from_bytes(digest.digest(), "big")
