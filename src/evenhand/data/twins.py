"""Items that are nearly another item: candidates by equal answers or by shared shingles, confirmed by wording."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from math import log

from evenhand.data.similarity import near_candidates
from evenhand.data.wording import Words, digits_of, same_wording, words_of

_SIMILAR = 0.6
_ALL_PAIRS = 48
_NEIGHBOURS = 4


def twin_groups(items: Sequence[tuple[str, str, str]]) -> list[int]:
    """For each item, a prompt with its winner and loser, the smallest index of an item it is a twin of, or its own.

    Twins have the same wording in all three texts, or are linked by a chain of such. Candidates are items of which two
    of the three texts are equal but for case and signs, and items that share six tenths of their shingles. In a block
    of more than 48 candidates each is compared with the next four only, so that time stays linear. An item whose own
    two answers have the same wording, such as a corrected one, is nobody's twin: which of them won would be lost.
    """
    words = [(words_of(prompt), words_of(winner), words_of(loser)) for prompt, winner, loser in items]
    distinct = [not same_wording(winner, loser) for _, winner, loser in words]
    numbers = [digits_of("".join(parts)) for parts in items]
    root = list(range(len(items)))
    for one, other in _candidates(words):
        if numbers[one] != numbers[other]:
            continue
        top_one, top_other = _top(root, one), _top(root, other)
        if top_one == top_other or not (distinct[one] and distinct[other]):
            continue
        if all(map(same_wording, words[one], words[other])):
            root[max(top_one, top_other)] = min(top_one, top_other)
    return [_top(root, at) for at in range(len(items))]


def plainness(items: Sequence[tuple[str, str, str]]) -> list[tuple[float, int, int]]:
    """For each item a key that is smallest for the plainest wording among twins.

    First the information in its words, in nats by their frequency in all items: greetings add to it, and a
    misspelling is rare. Then, for wordings that are equal, more capital letters and more signs come first.
    """
    texts = [" ".join(item) for item in items]
    words = [words_of(text) for text in texts]
    often = Counter(word for own in words for word in own)
    total = often.total()
    return [
        (round(sum(log(total / often[word]) for word in own), 6), -sum(map(str.isupper, text)), -len(text))
        for text, own in zip(texts, words)
    ]


def _candidates(words: Sequence[tuple[Words, Words, Words]]) -> Iterator[tuple[int, int]]:
    """Pairs of items worth comparing."""
    blocks: dict[tuple[int, str, str], list[int]] = defaultdict(list)
    for at, parts in enumerate(words):
        plain = ["".join(part) for part in parts]
        for left_out in range(3):
            one, other = (plain[kept] for kept in range(3) if kept != left_out)
            blocks[left_out, one, other].append(at)
    for (part, _, _), members in blocks.items():
        ordered = [at for _, at in sorted((words[at][part], at) for at in members)]
        reach = len(ordered) if len(ordered) <= _ALL_PAIRS else _NEIGHBOURS
        for place, first in enumerate(ordered):
            yield from ((first, second) for second in ordered[place + 1 : place + 1 + reach])
    yield from near_candidates([" ".join(word for part in parts for word in part) for parts in words], _SIMILAR)


def _top(root: list[int], at: int) -> int:
    while root[at] != at:
        root[at] = root[root[at]]
        at = root[at]
    return at
