"""Texts that are nearly the same, in time linear in their length: folded, hashed into bands, confirmed exactly.

A signature keeps 16 bits of each hash: a band of four is one 64-bit number, and a hash differs unseen in one case of
65,536.

Shapes: N distinct folded texts, W shingles, H hashes in a signature, E candidate pairs.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import rensa

_SHINGLE_BYTES = 6
HASHES = 128
_BANDS = 32
_SEED = 1
_CHUNK_BYTES = 8 << 20
_SLACK = 0.15  # three standard deviations of a 128-hash estimate near 0.7, rounded up

_NUMBER = re.compile(r"\d+")

Shingles = npt.NDArray[np.uint64]
Signatures = npt.NDArray[np.uint16]
Indexes = npt.NDArray[np.int64]


def fold(text: str) -> str:
    """The text with case and white space folded and every run of digits written as one `0`.

    >>> fold("Order  48213\\nis LATE")
    'order 0 is late'
    """
    return " ".join(_NUMBER.sub("0", text.casefold()).split())


def similarity(one: str, other: str) -> float:
    """Jaccard similarity, 0 to 1, of two texts' sets of six-byte shingles after folding; 1 for equal folded texts.

    >>> similarity("Where is order 17?", "where is ORDER 9123?")
    1.0
    """
    return _jaccard(_shingle_set(fold(one).encode()), _shingle_set(fold(other).encode()))


def near_groups(texts: Sequence[str], threshold: float) -> list[str]:
    """For each text the name of its group: texts linked by a chain of similarities of at least `threshold`.

    The names depend on the texts alone, not on their order. A pair above the threshold is found with probability
    over 0.999 at similarity 0.7 (32 bands of 4 hashes); a pair below it is never linked directly. Time and memory
    grow linearly: each text is confirmed against at most two others a band, however many look alike.
    """
    folded = [fold(text) for text in texts]
    distinct = sorted(set(folded))
    contents = [text.encode("utf-8", "surrogatepass") for text in distinct]
    root = _linked(contents, threshold)
    name = {top: hashlib.sha256(contents[top]).hexdigest()[:16] for top in set(root)}
    label = {text: name[top] for text, top in zip(distinct, root)}
    return [label[text] for text in folded]


def near_candidates(signatures_NH: Signatures, threshold: float) -> Iterator[tuple[int, int]]:
    """Pairs of places whose estimated similarity is near `threshold` or over it, sorted by the first; not confirmed.

    The pairs grow linearly with the texts, as in `near_groups`.
    """
    if len(signatures_NH) > 1:
        yield from _candidates(signatures_NH, threshold)


def signatures(texts: Sequence[Sequence[bytes]]) -> Signatures:
    """MinHash signatures of the shingles of each set of texts, by rensa, a few megabytes at a time."""
    signatures_NH: Signatures = np.empty((len(texts), HASHES), np.uint16)
    start = 0
    while start < len(texts):
        stop, size = start, 0
        while stop < len(texts) and size < _CHUNK_BYTES:
            size += sum(map(len, texts[stop]))
            stop += 1
        shingles_W, offsets = _shingles(texts[start:stop])
        matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(shingles_W, offsets, HASHES, _SEED)
        signatures_NH[start:stop] = np.array(matrix.to_rows(), np.uint32).astype(np.uint16)
        start = stop
    return signatures_NH


def _linked(contents: Sequence[bytes], threshold: float) -> list[int]:
    """The smallest index that each content is linked with."""
    parent = list(range(len(contents)))
    if len(contents) < 2:
        return parent
    kept_index, kept_set = -1, np.empty(0, np.uint64)
    for one, other in _candidates(signatures([[content] for content in contents]), threshold):
        top_one, top_other = _find(parent, one), _find(parent, other)
        if top_one == top_other:
            continue
        if one != kept_index:
            kept_index, kept_set = one, _shingle_set(contents[one])
        if _jaccard(kept_set, _shingle_set(contents[other])) >= threshold:
            parent[max(top_one, top_other)] = min(top_one, top_other)
    return [_find(parent, index) for index in range(len(contents))]


def _find(parent: list[int], index: int) -> int:
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = parent[index]
    return index


def _candidates(signatures_NH: Signatures, threshold: float) -> Iterator[tuple[int, int]]:
    """Pairs that share a band and whose signatures agree well enough, sorted by their first member."""
    count = len(signatures_NH)
    found: Indexes = np.empty(0, np.int64)
    for band in range(_BANDS):
        rows = HASHES // _BANDS
        pairs_E = _same_band(signatures_NH[:, band * rows : (band + 1) * rows])
        found = np.union1d(found, _agreeing(signatures_NH, pairs_E, threshold))
    for code in found.tolist():
        yield code // count, code % count


def _same_band(band_NR: Signatures) -> Indexes:
    """Codes of pairs in one bucket: each member with the bucket's first and with the one before it."""
    count = len(band_NR)
    key_N = np.ascontiguousarray(band_NR).view(np.uint64)[:, 0]
    order_N = np.argsort(key_N, kind="stable")
    sorted_N = key_N[order_N]
    starts_N = np.concatenate([[True], sorted_N[1:] != sorted_N[:-1]])
    first_N = order_N[np.maximum.accumulate(np.where(starts_N, np.arange(count), 0))]
    later_E = np.flatnonzero(~starts_N)
    member_E = order_N[later_E]
    return np.unique(np.concatenate([first_N[later_E] * count + member_E, order_N[later_E - 1] * count + member_E]))


def _agreeing(signatures_NH: Signatures, pairs_E: Indexes, threshold: float) -> Indexes:
    """The codes whose signatures agree in a share of places not clearly under the threshold."""
    count, kept = len(signatures_NH), []
    for start in range(0, len(pairs_E), 1 << 16):
        part_E = pairs_E[start : start + (1 << 16)]
        same_E = (signatures_NH[part_E // count] == signatures_NH[part_E % count]).mean(axis=1)
        kept.append(part_E[same_E >= threshold - _SLACK])
    return np.concatenate(kept) if kept else pairs_E


def _shingles(texts: Sequence[Sequence[bytes]]) -> tuple[Shingles, npt.NDArray[np.uint64]]:
    """Hashes of all six-byte windows of each set of texts, and where each set's windows begin and end.

    Every text is led by five zero bytes, so that its windows hold its own bytes only and a short one has windows too.
    """
    gap = bytes(_SHINGLE_BYTES - 1)
    joined = b"".join(gap + text for parts in texts for text in parts) + bytes(8)
    count = len(joined) - 8
    windows_W: Shingles = np.ndarray((count,), dtype="<u8", buffer=joined, strides=(1,))
    hashes_W = windows_W & np.uint64((1 << 8 * _SHINGLE_BYTES) - 1)
    hashes_W *= np.uint64(0x9E3779B97F4A7C15)
    hashes_W ^= hashes_W >> np.uint64(32)
    sizes = np.fromiter((sum(map(len, parts)) + len(gap) * len(parts) for parts in texts), np.uint64, len(texts))
    return hashes_W, np.concatenate([np.zeros(1, np.uint64), np.cumsum(sizes, dtype=np.uint64)])


def _shingle_set(content: bytes) -> Shingles:
    return np.unique(_shingles([[content]])[0])


def _jaccard(one: Shingles, other: Shingles) -> float:
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)
