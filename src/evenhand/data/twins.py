"""Items that are nearly another item: candidates by equal answers or by shared shingles, confirmed by wording.

Shapes: I items, T = 3 texts (prompt, winner, loser), H hashes in a signature.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import log

import numpy as np
import numpy.typing as npt

from evenhand.data.similarity import Signatures, near_candidates
from evenhand.data.wording import Words, same_wording, words_of

Hashes = npt.NDArray[np.uint64]
Item = tuple[str, str, str]

_SIMILAR = 0.6
_ALL_PAIRS = 48
_NEIGHBOURS = 4
_REMEMBERED = 4096
_ODD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Items:
    """I items by what was measured of them (see `Measures`), and `texts`, which fetches the texts of one."""

    plain_IT: Hashes
    digits_IT: Hashes
    signatures_IH: Signatures
    texts: Callable[[int], Item]

    def __len__(self) -> int:
        return len(self.plain_IT)


def twin_groups(items: Items) -> list[int]:
    """For each item, a prompt with its winner and loser, the smallest index of an item it is a twin of, or its own.

    Twins have the same wording in all three texts, or are linked by a chain of such. Candidates are items of which two
    of the three texts are equal but for case and signs, and items that share six tenths of their shingles; those whose
    digits differ are not looked at. In a block of more than 48 candidates each is compared with the next four only, so
    that time stays linear. An item whose own two answers have the same wording, such as a corrected one, is nobody's
    twin: which of them won would be lost.
    """

    @lru_cache(maxsize=_REMEMBERED)
    def words(at: int) -> tuple[Words, ...]:
        return tuple(words_of(text) for text in items.texts(at))

    @lru_cache(maxsize=_REMEMBERED)
    def distinct(at: int) -> bool:
        return not same_wording(*words(at)[1:])

    numbers = _joined(items.digits_IT).tolist()
    root = list(range(len(items)))
    for one, other in _candidates(items, words):
        if numbers[one] != numbers[other]:
            continue
        top_one, top_other = _top(root, one), _top(root, other)
        if top_one == top_other or not (distinct(one) and distinct(other)):
            continue
        if all(map(same_wording, words(one), words(other))):
            root[max(top_one, top_other)] = min(top_one, top_other)
    return [_top(root, at) for at in range(len(items))]


def word_counts(items: Iterable[Item]) -> Counter[str]:
    """How often each word stands in these items."""
    return Counter(word for item in items for text in item for word in words_of(text))


def plainness(item: Item, often: Counter[str], total: int) -> tuple[float, int, int]:
    """A key that is smallest for the plainest wording among twins; `often` are the counts of `total` words.

    First the information in its words, in nats by their frequency: greetings add to it, and a misspelling is rare.
    Then, for wordings that are equal, more capital letters and more signs come first.
    """
    text = " ".join(item)
    told = sum(log(total / (1 + often[word])) for word in words_of(text))
    return round(told, 6), -sum(map(str.isupper, text)), -len(text)


def _candidates(items: Items, words: Callable[[int], tuple[Words, ...]]) -> Iterator[tuple[int, int]]:
    """Pairs of items worth comparing."""
    for left_out in range(3):
        kept = [part for part in range(3) if part != left_out]
        for members in _blocks(_joined(items.plain_IT[:, kept])):
            if len(members) > _ALL_PAIRS:
                members = sorted(members, key=lambda at: (words(at)[left_out], at))
            reach = len(members) if len(members) <= _ALL_PAIRS else _NEIGHBOURS
            for place, first in enumerate(members):
                yield from ((first, second) for second in members[place + 1 : place + 1 + reach])
    yield from near_candidates(items.signatures_IH, _SIMILAR)


def _blocks(key_I: Hashes) -> Iterator[list[int]]:
    """The places of each key that stands more than once."""
    order_I = np.argsort(key_I, kind="stable")
    sorted_I = key_I[order_I]
    if not len(key_I):
        return
    edges = np.flatnonzero(np.concatenate([[True], sorted_I[1:] != sorted_I[:-1], [True]]))
    for start, stop in pairwise(edges.tolist()):
        if stop - start > 1:
            yield order_I[start:stop].tolist()


def _joined(hashes_IT: Hashes) -> Hashes:
    """One hash for each row of hashes, which depends on their order."""
    joined_I = np.zeros(len(hashes_IT), np.uint64)
    for column in hashes_IT.T:
        joined_I = (joined_I ^ column) * _ODD
        joined_I ^= joined_I >> np.uint64(29)
    return joined_I


def _top(root: list[int], at: int) -> int:
    while root[at] != at:
        root[at] = root[root[at]]
        at = root[at]
    return at
