"""The values that data moves in as text: messages, judgments, pairs, refusals."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
Verdict = Literal["a", "b", "tie"]
Side = Literal["a", "b"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str

    def json(self) -> dict[str, str]:
        """The turn as `{"role": .., "content": ..}`."""
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True, slots=True)
class Judgment:
    """One annotator's verdict on two answers to one prompt.

    `row` is the 0-based row of the input file. `group` names the rows or ranking it came from: the pairs of one
    ranked row share it, and a training step keeps them together. `shown_first`, `annotator`, `time` and `category`
    are None where the input does not tell.
    """

    id: str
    row: int
    group: str
    prompt: tuple[Message, ...]
    answer_a: str
    answer_b: str
    verdict: Verdict
    annotator: str | None = None
    shown_first: Side | None = None
    time: str | None = None
    category: str | None = None
    family: str | None = None


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """A prompt, the answer that was preferred and the one that was not; never a tie.

    `family` names the prompts that are near-duplicates of each other: they never stand on both sides of a split, and
    intervals treat them as one draw. `lacks` names the side that is absent, its text empty: a demonstration or a thumb up
    has no rejected answer, a thumb down no chosen one.
    """

    id: str
    row: int
    group: str
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    category: str | None = None
    family: str | None = None
    lacks: Literal["chosen", "rejected"] | None = None

    def json(self) -> dict[str, Any]:
        """The pair in the conversational form that TRL and `datasets` read."""
        lacking = {} if self.lacks is None else {"lacks": self.lacks}
        return lacking | {
            "id": self.id,
            "row": self.row,
            "group": self.group,
            "prompt": [message.json() for message in self.prompt],
            "chosen": [{"role": "assistant", "content": self.chosen}],
            "rejected": [{"role": "assistant", "content": self.rejected}],
            "category": self.category,
            "family": self.family,
        }


@dataclass(frozen=True, slots=True)
class Refusal:
    """An input row that cannot be used: where it stands, a reason code, and what is wrong in words.

    `line` is 1-based and None where the format has no lines. `text` is the row's beginning, for a person to look at.
    `sha256` is of the row's bytes with the end of its line, as `sed -n LINEp FILE | sha256sum` gives it; None where the format
    has no bytes for a row alone.
    """

    file: str
    line: int | None
    row: int
    reason: str
    detail: str
    text: str
    sha256: str | None = None

    def json(self) -> dict[str, Any]:
        """The ledger's row."""
        return {
            "file": self.file,
            "line": self.line,
            "row": self.row,
            "reason": self.reason,
            "detail": self.detail,
            "text": self.text,
            "sha256": self.sha256,
        }


@dataclass(frozen=True, slots=True)
class Reading:
    """What a source held: `rows_in` rows are the rows behind `judgments` plus the refused ones, none lost.

    `kind` names the recognised form of row; `notes` say in words what was normalised, with counts.
    """

    source: str
    kind: str
    rows_in: int
    judgments: Sequence[Judgment]
    refusals: tuple[Refusal, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def rows_used(self) -> int:
        """Rows that gave at least one judgment."""
        return len({judgment.row for judgment in self.judgments})

    @property
    def refused(self) -> dict[str, int]:
        """Refused rows by reason, most frequent first."""
        return by_reason(self.refusals)


def by_reason(refusals: Iterable[Refusal]) -> dict[str, int]:
    """How many were refused for each reason, most frequent first."""
    return dict(Counter(refusal.reason for refusal in refusals).most_common())


def to_pair(judgment: Judgment) -> PreferencePair | None:
    """The pair a judgment stands for; None for a tie, which has no winner.

    >>> prompt = (Message("user", "Where is my parcel?"),)
    >>> pair = to_pair(Judgment("j1", 0, "0", prompt, "On its way.", "No idea.", "b"))
    >>> pair.chosen
    'No idea.'
    """
    match judgment.verdict:
        case "a":
            chosen, rejected = judgment.answer_a, judgment.answer_b
        case "b":
            chosen, rejected = judgment.answer_b, judgment.answer_a
        case "tie":
            return None
    return PreferencePair(
        id=judgment.id,
        row=judgment.row,
        group=judgment.group,
        prompt=judgment.prompt,
        chosen=chosen,
        rejected=rejected,
        category=judgment.category,
        family=judgment.family,
    )
