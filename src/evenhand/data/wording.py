"""Whether two texts say the same in nearly the same words: case, signs, greetings, typos and short forms apart."""

import re
from collections import Counter
from collections.abc import Sequence
from sys import intern

from rapidfuzz.distance import OSA, LCSseq

_WORD = re.compile(r"[^\W_]+")
_DIGITS = re.compile(r"\d+")
_APOSTROPHE = re.compile(r"['\u2019]")
_NEGATIONS = frozenset(
    ("no", "not", "never", "none", "cannot", "without", "cant", "dont", "doesnt", "didnt", "wont")
) | {
    f"{verb}nt"
    for verb in ("would", "could", "should", "is", "are", "was", "were", "has", "have", "had", "must", "need")
}

_EDGE_WORDS = 6
_MOST_UNSHARED = 24
_LONGEST_DIFFERENCE = 400

Words = Sequence[str]


def words_of(text: str) -> tuple[str, ...]:
    """The words and numbers of a text in lower case, apostrophes left out, all other signs taken as spaces.

    Equal words are one object, so that the words of many texts take eight bytes each.

    >>> words_of("I'm LATE: order 19.99!")
    ('im', 'late', 'order', '19', '99')
    """
    return tuple(map(intern, _WORD.findall(_APOSTROPHE.sub("", text.casefold()))))


def digits_of(text: str) -> str:
    """All digits of a text in their order.

    >>> digits_of("order 17 for $19.99")
    '171999'
    """
    return "".join(_DIGITS.findall(text))


def same_wording(one: Words, other: Words) -> bool:
    """Whether two texts, as `words_of` gives them, differ by nothing that changes what is said.

    Digits must be the same in the same order, and there must be as many negations. A few words may be added at
    either end, such as a greeting; inside, a word may be misspelt by one letter or be the short form of another, and
    one word in twenty may be added. Linear in the texts' length but for the part that differs, which is bounded.

    >>> same_wording(words_of("I'm waiting for order 17."), words_of("Hi! I am wating for order 17, thanks"))
    True
    >>> same_wording(words_of("I'm waiting for order 17."), words_of("I'm waiting for order 18."))
    False
    """
    whole = "".join(one), "".join(other)
    if whole[0] == whole[1]:
        return True
    if digits_of(whole[0]) != digits_of(whole[1]) or _negations(one) != _negations(other):
        return False
    if _unshared(one, other) > _MOST_UNSHARED + min(len(one), len(other)) // 3:
        return False
    head, tail = _common(one, other)
    middle_one, middle_other = one[head : len(one) - tail], other[head : len(other) - tail]
    if max(len(middle_one), len(middle_other)) > _LONGEST_DIFFERENCE:
        return False
    return _small_changes(middle_one, middle_other, (head == 0, tail == 0), min(len(one), len(other)))


def _small_changes(one: Words, other: Words, edges: tuple[bool, bool], size: int) -> bool:
    """Whether every difference between the two is small, and there are few."""
    added = changed = 0
    for a0, a1, b0, b1 in _differences(one, other):
        first, last = edges[0] and a0 == b0 == 0, edges[1] and a1 == len(one) and b1 == len(other)
        left, right = one[a0:a1], other[b0:b1]
        if left and right:
            changed += 1
            if not _same_block(left, right, (first, last)):
                return False
        elif not (first or last):
            added += len(left) + len(right)
        elif len(left) + len(right) > _EDGE_WORDS:
            return False
    return added <= size // 20 and changed <= 2 + size // 10


def _differences(one: Words, other: Words) -> list[tuple[int, int, int, int]]:
    """Spans of `one` and `other` between the words of their longest common subsequence."""
    spans: list[tuple[int, int, int, int]] = []
    for code in LCSseq.opcodes(list(one), list(other)):
        if code.tag == "equal":
            continue
        span = code.src_start, code.src_end, code.dest_start, code.dest_end
        if spans and spans[-1][1] == span[0] and spans[-1][3] == span[2]:
            span = spans[-1][0], span[1], spans[-1][2], span[3]
            spans.pop()
        spans.append(span)
    return spans


def _same_block(left: Words, right: Words, edges: tuple[bool, bool]) -> bool:
    """Whether two differing spans are one word spelt twice, a greeting or closing beside it left out at an edge."""
    for cut in range(_EDGE_WORDS + 1):
        shorter = [(short, right) for short in _trimmed(left, cut, edges)]
        shorter += [(left, short) for short in _trimmed(right, cut, edges)]
        if any(_one_spelling("".join(a), "".join(b)) for a, b in shorter):
            return True
    return False


def _trimmed(words: Words, cut: int, edges: tuple[bool, bool]) -> list[Words]:
    """`words` without `cut` of them at the text's beginning and at its end, where they stand there."""
    if cut == 0:
        return [words]
    if cut >= len(words):
        return []
    return [words[cut:]] * edges[0] + [words[:-cut]] * edges[1]


def _one_spelling(one: str, other: str) -> bool:
    """Equal, one letter wrong in a word of five or more, or the short form of the other."""
    short, long = sorted((one, other), key=len)
    if short == long:
        return True
    if len(short) >= 5 and OSA.distance(short, long, score_cutoff=1) <= 1:
        return True
    return len(short) >= 2 and len(long) <= 3 * len(short) <= 24 and _within(short, long)


def _within(short: str, long: str) -> bool:
    """Whether the letters of `short` stand in `long` in the same order."""
    letters = iter(long)
    return all(letter in letters for letter in short)


def _common(one: Words, other: Words) -> tuple[int, int]:
    """How many words both begin with, and how many of the rest both end with."""
    shorter = min(len(one), len(other))
    head = next((at for at in range(shorter) if one[at] != other[at]), shorter)
    tail = next((at for at in range(shorter - head) if one[-1 - at] != other[-1 - at]), shorter - head)
    return head, tail


def _unshared(one: Words, other: Words) -> int:
    """How many words either has that the other lacks, repeats counted."""
    mine, theirs = Counter(one), Counter(other)
    return (mine - theirs).total() + (theirs - mine).total()


def _negations(words: Words) -> int:
    return sum(word in _NEGATIONS for word in words)
