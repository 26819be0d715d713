"""Which judgments are about the same thing: content keys that do not depend on row order or on which answer is a."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evenhand.data.schema import Judgment, Message, Side, Verdict

FIRST_WON, SECOND_WON, TIED = 0, 1, 2
"""Labels of a verdict after normalising: the answer whose key sorts first won, the other one won, a tie."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What one judgment is about: 16-byte content keys of its prompt, its two answers and the whole item.

    `first` and `second` are the answers' keys in sorted order, so that an item has the same keys whichever answer was
    written as a; `label` is the verdict in that order: FIRST_WON, SECOND_WON or TIED.
    """

    prompt: bytes
    first: bytes
    second: bytes
    item: bytes
    label: int
    a_is_first: bool

    @property
    def winner(self) -> bytes:
        """Key of the answer that won; meaningless for a tie."""
        return self.first if self.label == FIRST_WON else self.second

    @property
    def loser(self) -> bytes:
        """Key of the answer that lost; meaningless for a tie."""
        return self.second if self.label == FIRST_WON else self.first


@dataclass(frozen=True, slots=True)
class Ballot:
    """One judgment without its texts; lengths are in characters."""

    row: int
    id: str
    verdict: Verdict
    annotator: str | None
    shown_first: Side | None
    time: str | None
    category: str | None
    length_a: int
    length_b: int


def ballot_of(own: Judgment) -> Ballot:
    """A judgment without its texts."""
    lengths = len(own.answer_a), len(own.answer_b)
    return Ballot(own.row, own.id, own.verdict, own.annotator, own.shown_first, own.time, own.category, *lengths)


@dataclass(frozen=True, slots=True)
class Keys:
    """16-byte content keys: `parts` of the prompt, of the answers in sorted order, and of the whole item."""

    parts: tuple[bytes, bytes, bytes, bytes]
    a_is_first: bool


def keys_of(turns: Sequence[tuple[str, str]], answer_a: str, answer_b: str) -> Keys:
    """The keys of turns, as (role, content), and two answers."""
    prompt, a, b = _prompt_key(turns), _key(answer_a), _key(answer_b)
    a_is_first = a <= b
    first, second = (a, b) if a_is_first else (b, a)
    return Keys((prompt, first, second, _digest(prompt + first + second)), a_is_first)


def label_of(verdict: Verdict, a_is_first: bool) -> int:
    """The verdict as FIRST_WON, SECOND_WON or TIED."""
    if verdict == "tie":
        return TIED
    return FIRST_WON if (verdict == "a") == a_is_first else SECOND_WON


def identity(judgment: Judgment) -> Identity:
    """The content keys of one judgment.

    >>> prompt = (Message("user", "Where is my parcel?"),)
    >>> one = identity(Judgment("1", 0, "0", prompt, "On its way.", "No idea.", "a"))
    >>> other = identity(Judgment("2", 1, "1", prompt, "No idea.", "On its way.", "b"))
    >>> (one.item, one.label) == (other.item, other.label)
    True
    """
    keys = keys_of([(turn.role, turn.content) for turn in judgment.prompt], judgment.answer_a, judgment.answer_b)
    return Identity(*keys.parts, label_of(judgment.verdict, keys.a_is_first), keys.a_is_first)


def identities(judgments: Iterable[Judgment]) -> tuple[Identity, ...]:
    """The content keys of each judgment, in order."""
    return tuple(identity(judgment) for judgment in judgments)


def prompt_text(prompt: Sequence[Message]) -> str:
    """The turns that make one prompt differ from another: all but the system's, which many prompts share.

    A prompt of system turns alone is its own text.
    """
    return told_text([(turn.role, turn.content) for turn in prompt])


def told_text(turns: Sequence[tuple[str, str]]) -> str:
    """`prompt_text` of turns given as (role, content)."""
    told = [content for role, content in turns if role != "system"] or [content for _, content in turns]
    return told[0] if len(told) == 1 else "\n".join(told)


def _prompt_key(turns: Sequence[tuple[str, str]]) -> bytes:
    """Length-prefixed, so that no two different conversations give the same bytes."""
    return _key("\n".join(f"{role} {len(content)} {content}" for role, content in turns))


def _key(text: str) -> bytes:
    return _digest(text.encode("utf-8", "surrogatepass"))


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()
