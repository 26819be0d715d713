"""What one pass over the texts keeps of them, so that no check or rule needs the texts again but to look closer.

The pass is a map over batches: a batch's measures depend on nothing but its texts, whoever computes them.

Shapes: N judgments, K = 4 keys (prompt, the two answers in sorted order, the whole item), T = 3 texts (prompt, answer a,
answer b), H hashes in a signature.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import Levenshtein

from evenhand.data.items import keys_of, told_text
from evenhand.data.marks import Mark, marks_of_answers, marks_of_texts
from evenhand.data.schema import Judgment
from evenhand.data.similarity import HASHES, Signatures, signatures

BATCH = 512
_KEY_BYTES = 16
_KEYS = 4

_SIGNS = re.compile(r"[\W_]+")
_NOT_DIGITS = re.compile(r"\D+")
_LOWER = bytes(code + 32 if chr(code).isupper() and code < 128 else code for code in range(256))
_ASCII_SIGNS = bytes(code for code in range(128) if not chr(code).isalnum())
_ASCII_NOT_DIGITS = bytes(code for code in range(256) if not 48 <= code <= 57)

Texts = tuple[tuple[tuple[str, str], ...], str, str]
"""One judgment's turns as (role, content), and its two answers."""


@dataclass(frozen=True, slots=True)
class Measures:
    """N judgments without their texts.

    `keys` are N * K keys of 16 bytes; `plain_NT` and `digits_NT` are 64-bit hashes of a text's letters and digits
    without case and signs, and of its digits alone; `marks_N` are `Mark` bits; `characters_NT` are lengths, the
    prompt's over all its turns; `signatures_NH` are MinHash signatures of all three texts together.
    """

    keys: bytes
    plain_NT: npt.NDArray[np.uint64]
    digits_NT: npt.NDArray[np.uint64]
    marks_N: npt.NDArray[np.uint32]
    characters_NT: npt.NDArray[np.int32]
    signatures_NH: Signatures

    def __len__(self) -> int:
        return len(self.marks_N)

    def keys_at(self, at: int) -> tuple[bytes, bytes, bytes, bytes]:
        """The four keys of judgment `at`."""
        one, two, three, four, end = range(at * _KEYS * _KEY_BYTES, (at + 1) * _KEYS * _KEY_BYTES + 1, _KEY_BYTES)
        return self.keys[one:two], self.keys[two:three], self.keys[three:four], self.keys[four:end]


Map = Callable[[Callable[[list[Texts]], Measures], Iterable[list[Texts]]], Iterator[Measures]]
"""Applies a function to batches, here or elsewhere, and gives the results in the batches' order."""


def measured(judgments: Iterable[Judgment], run: Map = map) -> Measures:
    """The measures of all judgments, in order; `run` says where the batches are measured, `map` means here."""
    parts = list(run(measure, _batches(judgments))) or [measure([])]
    return Measures(
        b"".join(part.keys for part in parts),
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("plain_NT", "digits_NT", "marks_N", "characters_NT", "signatures_NH")
        ),
    )


def measure(batch: Sequence[Texts]) -> Measures:
    """The measures of one batch."""
    keys: list[bytes] = []
    plain: list[tuple[bytes, ...]] = []
    digits: list[bytes] = []
    marks: list[int] = []
    characters: list[int] = []
    for turns, answer_a, answer_b in batch:
        own = keys_of(turns, answer_a, answer_b)
        asked = told_text(turns)
        folded = [plain_of(text) for text in (asked, answer_a, answer_b)]
        keys += own.parts
        plain.append(tuple(folded))
        digits += (digits_of(text) for text in folded)
        marks.append(_marks(turns, answer_a, answer_b, folded) | (Mark.A_IS_FIRST if own.a_is_first else 0))
        characters += (sum(len(content) for _, content in turns), len(answer_a), len(answer_b))
    count = len(batch)
    return Measures(
        b"".join(keys),
        _hashes([text for texts in plain for text in texts]).reshape(count, 3),
        _hashes(digits).reshape(count, 3),
        np.array(marks, np.uint32),
        np.array(characters, np.int32).reshape(count, 3),
        signatures(plain) if count else np.empty((0, HASHES), np.uint16),
    )


def plain_of(text: str) -> bytes:
    """The letters and digits of a text without case, signs and white space.

    >>> plain_of("I'm LATE: order 19.99!")
    b'imlateorder1999'
    """
    if text.isascii():
        return text.encode().translate(_LOWER, _ASCII_SIGNS)
    return _SIGNS.sub("", text.casefold()).encode("utf-8", "surrogatepass")


def digits_of(plain: bytes) -> bytes:
    """All digits of a plain text in their order; digits of other scripts count as digits.

    >>> digits_of(b"order17for1999")
    b'171999'
    """
    if plain.isascii():
        return plain.translate(None, _ASCII_NOT_DIGITS)
    return _NOT_DIGITS.sub("", plain.decode("utf-8", "surrogatepass")).encode()


def texts_of(judgment: Judgment) -> Texts:
    """The texts of a judgment as plain tuples, which travel cheaply between processes."""
    return tuple((turn.role, turn.content) for turn in judgment.prompt), judgment.answer_a, judgment.answer_b


def _batches(judgments: Iterable[Judgment]) -> Iterator[list[Texts]]:
    told = iter(judgments)
    while batch := [texts_of(own) for own in islice(told, BATCH)]:
        yield batch


def _marks(turns: Sequence[tuple[str, str]], answer_a: str, answer_b: str, plain: Sequence[bytes]) -> int:
    marks = marks_of_texts([*(content for _, content in turns), answer_a, answer_b])
    marks |= marks_of_answers(answer_a, answer_b)
    if plain[1] == plain[2] and " ".join(answer_a.casefold().split()) == " ".join(answer_b.casefold().split()):
        return marks | Mark.IDENTICAL
    most = max(len(answer_a), len(answer_b)) // 100
    if (
        abs(len(answer_a) - len(answer_b)) <= most
        and Levenshtein.distance(answer_a, answer_b, score_cutoff=most) <= most
    ):
        marks |= Mark.NEAR_TIE
    return marks


def _hashes(contents: Iterable[bytes]) -> npt.NDArray[Any]:
    return np.frombuffer(b"".join(blake2b(content, digest_size=8).digest() for content in contents), np.uint64)
