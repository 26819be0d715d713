"""A forest of token segments laid end to end: every shared beginning stands once, and nothing is padded.

Shapes: T tokens of the layout, R runs, K keys of all runs, S sequences (prompt with one answer), N scored tokens of the
layout, E scored tokens counted once for every sequence they belong to, B pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evenhand.model.encode import EncodedPair, EncodedSide

Index = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Forest:
    """Which keys each run of queries may see: its own tokens up to the query, and all of the path that leads to it.

    Run r asks with tokens `query_starts_R1[r]:query_starts_R1[r+1]` and sees the tokens
    `path_K[key_starts_R1[r]:key_starts_R1[r+1]]`, which end with its own. Token t stands on the paths at
    `copies_K[copy_starts_T1[t]:copy_starts_T1[t+1]]`, in the order of the runs.
    """

    path_K: Tensor
    copies_K: Tensor
    copy_starts_T1: Tensor
    query_starts_R1: Tensor
    key_starts_R1: Tensor
    runs: tuple[tuple[int, int, int, int], ...]  # the same starts and ends as plain numbers: no device is asked
    masks: dict[Any, Tensor] = field(default_factory=dict, compare=False)  # filled by attention, shared by all layers
    reasons: set[str] = field(default_factory=set, compare=False)  # why attention went run by run, if it did

    @property
    def longest_query(self) -> int:
        """Tokens in the longest run."""
        return max(end - start for start, end, _, _ in self.runs)

    @property
    def longest_key(self) -> int:
        """Tokens on the longest path."""
        return max(end - start for _, _, start, end in self.runs)


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """B pairs as one forest, and where its scored tokens stand."""

    tokens_T: Tensor
    positions_T: Tensor
    forest: Forest
    predict_N: Tensor  # the token of the layout whose hidden state predicts
    target_N: Tensor
    entry_E: Tensor  # index into N, sequence after sequence
    scored_S: Tensor
    last_S: Tensor  # the token of the layout that ends the sequence
    chosen_B: Tensor  # index into S, -1 where that side is absent
    rejected_B: Tensor
    sequences: tuple[EncodedSide, ...]  # as encoded, for the padded path and for error messages

    @property
    def tokens(self) -> int:
        """Tokens computed."""
        return len(self.tokens_T)

    def to(self, device: torch.device) -> "PackedBatch":
        """The same batch with its tensors on `device`."""
        if self.tokens_T.device == device:
            return self
        forest = replace(self.forest, masks={}, reasons=set(), **_moved(self.forest, device))
        return replace(self, **(_moved(self, device) | {"forest": forest}))


def _moved(value: Any, device: torch.device) -> dict[str, Any]:
    tensors = ((f.name, getattr(value, f.name)) for f in fields(value))
    return {name: tensor.to(device, non_blocking=True) for name, tensor in tensors if isinstance(tensor, Tensor)}


def pack(pairs: Sequence[EncodedPair], share: bool = True) -> PackedBatch:
    """Lay the pairs out as a forest; sequences that occur in several pairs are computed once.

    `share=False` gives every sequence its own run from the first token on, for measuring what sharing buys.
    """
    sequences, chosen_B, rejected_B = _unique_sequences(pairs, share)
    paths, tokens_T, positions_T, parent_T, runs = _grow(sequences, share)
    scored_nodes = [path[s.starts :] for path, s in zip(paths, sequences)]
    every_E = np.concatenate(scored_nodes)
    is_scored_T = np.zeros(len(tokens_T), dtype=bool)
    is_scored_T[every_E] = True
    nodes_N, entry_E = np.flatnonzero(is_scored_T), (np.cumsum(is_scored_T) - 1)[every_E]
    grown = [(run, path) for run, path in zip(runs, paths) if run[1] > run[0]]
    starts = np.cumsum([0] + [end - start for (start, end), _ in grown])
    keys = np.cumsum([0] + [len(path) for _, path in grown])
    path_K = np.concatenate([path for _, path in grown])
    copies = np.cumsum(np.concatenate([[0], np.bincount(path_K, minlength=len(tokens_T))]))
    forest = Forest(
        path_K=torch.from_numpy(path_K),
        copies_K=torch.from_numpy(np.argsort(path_K, kind="stable")),
        copy_starts_T1=torch.from_numpy(copies),
        query_starts_R1=torch.from_numpy(starts.astype(np.int32)),
        key_starts_R1=torch.from_numpy(keys.astype(np.int32)),
        runs=tuple((a, b, int(c), int(d)) for ((a, b), _), c, d in zip(grown, keys[:-1], keys[1:])),
    )
    return PackedBatch(
        tokens_T=torch.from_numpy(tokens_T),
        positions_T=torch.from_numpy(positions_T),
        forest=forest,
        predict_N=torch.from_numpy(parent_T[nodes_N]),
        target_N=torch.from_numpy(tokens_T[nodes_N]),
        entry_E=torch.from_numpy(entry_E),
        scored_S=torch.tensor([len(nodes) for nodes in scored_nodes]),
        last_S=torch.tensor([int(path[-1]) for path in paths]),
        chosen_B=torch.tensor(chosen_B),
        rejected_B=torch.tensor(rejected_B),
        sequences=tuple(sequences),
    )


def forest_tokens(pairs: Sequence[EncodedPair]) -> int:
    """The tokens that a forest of these pairs computes, without building it."""
    sequences, _, _ = _unique_sequences(pairs, True)
    shared = sum(_common(a.tokens, b.tokens) for a, b in pairwise(sequences))
    return sum(len(s.tokens) for s in sequences) - shared


def common_beginning(pairs: Sequence[EncodedPair]) -> int:
    """How many tokens all sequences of these pairs begin with: a system prompt, or all of one ranked row's prompt."""
    first = (pairs[0].rejected if pairs[0].chosen.absent else pairs[0].chosen).tokens
    common = len(first)
    for pair in pairs:
        for one in (pair.chosen, pair.rejected):
            common = common if one.absent else _common(first[:common], one.tokens)
    return common


def _unique_sequences(pairs: Sequence[EncodedPair], share: bool) -> tuple[list[EncodedSide], list[int], list[int]]:
    """Sequences in lexicographic order, so that the longest shared beginning is always with the one before.

    Also the index of each pair's chosen and rejected sequence, -1 for an absent one.
    """
    sides = [s for pair in pairs for s in (pair.chosen, pair.rejected)]
    # Big-endian bytes sort as the token numbers do.
    keys = [(s.tokens.astype(">u4").tobytes(), s.starts, 0 if share else i) for i, s in enumerate(sides)]
    present = {key for key, s in zip(keys, sides) if not s.absent}
    order = {key: i for i, key in enumerate(sorted(present))}
    unique: dict[int, EncodedSide] = {order[key]: s for key, s in zip(keys, sides) if key in order}
    index = [order.get(key, -1) for key in keys]
    return [unique[i] for i in range(len(unique))], index[0::2], index[1::2]


def _grow(
    sequences: Sequence[EncodedSide], share: bool
) -> tuple[list[Index], Index, Index, Index, list[tuple[int, int]]]:
    """For each sequence the layout index of each of its tokens; and the layout itself."""
    paths: list[Index] = []
    tokens: list[npt.NDArray[np.int32]] = []
    positions, parents, runs = [], [], []
    total, before = 0, None
    for s in sequences:
        common = _common(before.tokens, s.tokens) if share and before is not None else 0
        own = len(s.tokens) - common
        path = (
            np.concatenate([paths[-1][:common], np.arange(total, total + own)])
            if common
            else np.arange(total, total + own)
        )
        paths.append(path)
        tokens.append(s.tokens[common:])
        positions.append(np.arange(common, common + own))
        parents.append(np.concatenate([path[common - 1 : common] if common else [-1], path[common:-1]])[:own])
        runs.append((total, total + own))
        total, before = total + own, s
    return (
        paths,
        np.concatenate(tokens).astype(np.int64),
        np.concatenate(positions),
        np.concatenate(parents).astype(np.int64),
        runs,
    )


def _common(a: npt.NDArray[np.int32], b: npt.NDArray[np.int32]) -> int:
    """Length of the common beginning."""
    shorter = min(len(a), len(b))
    different = np.flatnonzero(a[:shorter] != b[:shorter])
    return int(different[0]) if len(different) else shorter
