"""What events say of replies, as one value, and the row of training data that it becomes."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from evenhand.data.schema import Message
from evenhand.files import canonical_json, sha256

Origin = Literal["edit", "takeover", "thumb", "thumbs", "sent"]


@dataclass(frozen=True, slots=True)
class Claim:
    """That a reply to a prompt was good, `won`, or bad, `lost`, or with both that the one is better than the other.

    A thumb, and a takeover of which nobody said what was sent instead, has one side and "" for the other. `origin`
    names how it was said: `sent` is a reply that went out as drafted against one to the same prompt that was rejected,
    `thumbs` one with a thumb up against one with a thumb down. `actor` is None where it is unknown or where several
    said it. `events` are the ids of all events that it rests on, in the order in which they were acknowledged.
    """

    tenant: str
    origin: Origin
    prompt: tuple[Message, ...]
    won: str
    lost: str
    actor: str | None
    at_ms: int
    model: str
    category: str
    draft: str
    events: tuple[str, ...]

    @property
    def id(self) -> str:
        """The row's name, which follows from its events alone."""
        return f"e{sha256(canonical_json([self.tenant, self.origin, self.events]))[:24]}"

    @property
    def is_pair(self) -> bool:
        """Whether it compares two replies."""
        return bool(self.won and self.lost)

    def row(self) -> dict[str, Any]:
        """A judgment in evenhand's own form, or for a thumb an unpaired preference in TRL's, with where it comes from.

        The better answer of a judgment is `answer_a` as often as not, decided by its id.
        """
        return {"id": self.id, "prompt": [message.json() for message in self.prompt], **self._said(), **self._about()}

    def _said(self) -> dict[str, Any]:
        if not self.is_pair:
            return {"completion": self.won or self.lost, "label": bool(self.won)}
        if int(self.id[-1], 16) % 2:
            return {"answer_a": self.won, "answer_b": self.lost, "verdict": "a"}
        return {"answer_a": self.lost, "answer_b": self.won, "verdict": "b"}

    def _about(self) -> dict[str, Any]:
        return {
            "annotator": self.actor,
            "time": datetime.fromtimestamp(self.at_ms / 1000, UTC).isoformat(timespec="milliseconds"),
            "category": self.category or None,
            "origin": self.origin,
            "model": self.model or None,
            "draft": self.draft,
            "events": list(self.events),
        }
