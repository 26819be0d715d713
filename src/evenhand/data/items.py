"""Which judgments are about the same thing: content keys that do not depend on row order or on which answer is a."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evenhand.data.schema import Judgment, Message

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


def identity(judgment: Judgment) -> Identity:
    """The content keys of one judgment.

    >>> prompt = (Message("user", "Where is my parcel?"),)
    >>> one = identity(Judgment("1", 0, "0", prompt, "On its way.", "No idea.", "a"))
    >>> other = identity(Judgment("2", 1, "1", prompt, "No idea.", "On its way.", "b"))
    >>> (one.item, one.label) == (other.item, other.label)
    True
    """
    prompt, a, b = _prompt_key(judgment.prompt), _key(judgment.answer_a), _key(judgment.answer_b)
    a_is_first = a <= b
    first, second = (a, b) if a_is_first else (b, a)
    if judgment.verdict == "tie":
        label = TIED
    else:
        label = FIRST_WON if (judgment.verdict == "a") == a_is_first else SECOND_WON
    return Identity(prompt, first, second, _digest(prompt + first + second), label, a_is_first)


def identities(judgments: Iterable[Judgment]) -> tuple[Identity, ...]:
    """The content keys of each judgment, in order."""
    return tuple(identity(judgment) for judgment in judgments)


def prompt_text(prompt: Sequence[Message]) -> str:
    """The turns that make one prompt differ from another: all but the system's, which many prompts share.

    A prompt of system turns alone is its own text.
    """
    told = [message for message in prompt if message.role != "system"] or list(prompt)
    return "\n".join(message.content for message in told)


def _prompt_key(prompt: Sequence[Message]) -> bytes:
    """Length-prefixed, so that no two different conversations give the same bytes."""
    parts = (f"{message.role} {len(message.content)} {message.content}" for message in prompt)
    return _key("\n".join(parts))


def _key(text: str) -> bytes:
    return _digest(text.encode("utf-8", "surrogatepass"))


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()
