"""One thing that happened to one reply in production: the value, and the JSON form in which a bot sends it."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator
from rapidfuzz.distance import Levenshtein

from evenhand.data.schema import Message
from evenhand.errors import DataError


class MalformedEvent(DataError):
    """Bytes that are not JSON."""


Kind = Literal["draft", "thumb", "edit", "takeover", "escalation", "abandoned", "sent"]
KINDS: tuple[Kind, ...] = get_args(Kind)

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Text = Annotated[str, Field(max_length=60_000)]


class Turn(BaseModel):
    """One turn of the conversation before the draft."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    role: Literal["system", "user", "assistant", "tool"]
    content: Text


class EventForm(BaseModel):
    """An event as it is sent.

    `id` is the sender's own name for the event: sent again, it counts once. `draft` names the reply that the event is
    about; the other kinds may leave `model` and `category` out, which are then the draft's. `text` is the reply that
    was shown, `sent` what a person sent instead.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, title="Event")

    id: Name = Field(description="Unique within the tenant; the same id with the same content counts once.")
    kind: Kind
    conversation: Name
    draft: Name = Field(description="The sender's name for the reply that was drafted.")
    at: AwareDatetime = Field(description="When it happened, ISO 8601 with a time zone.")
    model: Name | None = Field(None, description="The model's name or hash, from its manifest. A draft must have it.")
    category: Name | None = None
    actor: Name | None = Field(None, description="Who did it: an agent's or customer's pseudonym.")
    prompt: Annotated[tuple[Turn, ...], Field(max_length=200)] | Text | None = Field(
        None,
        description="The conversation before the draft: turns, or a text that is the only one. `collect` needs it.",
    )
    text: Text | None = Field(None, description="The reply that was shown. Drafts and edits must have it.")
    sent: Text | None = Field(None, description="What a person sent instead. An edit must have it.")
    up: bool | None = Field(None, strict=True, description="A thumb must have it: true is up.")
    reason: Annotated[str, Field(max_length=2000)] | None = None
    latency_ms: int | None = Field(None, ge=0, le=86_400_000, strict=True, description="Time to draft the reply.")

    @model_validator(mode="after")
    def _complete(self) -> "EventForm":
        needed = {"draft": ("model", "text"), "thumb": ("up",), "edit": ("text", "sent")}.get(self.kind, ())
        for name in needed:
            if getattr(self, name) is None:
                raise ValueError(f"an event of kind {self.kind} needs `{name}`")
        if self.at.year < 2000 or self.at.year > 2200:
            raise ValueError("`at` is outside the years 2000 to 2200")
        return self


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `at_ms` is in milliseconds since 1970, UTC; `body` its only JSON, by which equal events are told.

    Model and category are None where the sender left them to the draft.
    """

    tenant: str
    id: str
    kind: Kind
    conversation: str
    draft: str
    at_ms: int
    model: str | None
    category: str | None
    actor: str | None
    prompt: tuple[Message, ...]
    text: str | None
    sent: str | None
    up: bool | None
    reason: str | None
    latency_ms: int | None
    body: str

    @property
    def length_characters(self) -> int | None:
        """Length of the reply that was shown, None where the event carries none."""
        return len(self.text) if self.text is not None else None

    @property
    def distance(self) -> float | None:
        """How much of the shown reply a person changed, 0 to 1: edit distance over the longer text's length.

        Of long texts the first 4,000 characters count.
        """
        if self.text is None or self.sent is None:
            return None
        return float(Levenshtein.normalized_distance(self.text[:_COMPARED], self.sent[:_COMPARED]))


@dataclass(frozen=True, slots=True)
class Unfit:
    """What was sent as an event and cannot be taken: the reason under which it is counted, and what is wrong."""

    reason: str
    message: str


def day_of(milliseconds: int) -> str:
    """The day of a moment, UTC.

    >>> day_of(86_400_000)
    '1970-01-02'
    """
    return datetime.fromtimestamp(milliseconds / 1000, UTC).date().isoformat()


def event_of(tenant: str, form: EventForm) -> Event:
    """The event that `form` states; raises ValueError where a text holds NUL, which no database keeps."""
    body = form.model_dump_json(exclude_none=True)
    if "\\u0000" in body and _NUL.search(body):
        raise ValueError("a text holds the character NUL")
    return Event(
        tenant=tenant,
        id=form.id,
        kind=form.kind,
        conversation=form.conversation,
        draft=form.draft,
        at_ms=round(form.at.timestamp() * 1000),
        model=form.model,
        category=form.category,
        actor=form.actor,
        prompt=_turns(form.prompt),
        text=form.text,
        sent=form.sent,
        up=form.up,
        reason=form.reason,
        latency_ms=form.latency_ms,
        body=body,
    )


def _turns(prompt: tuple[Turn, ...] | str | None) -> tuple[Message, ...]:
    if isinstance(prompt, str):
        return (Message("user", prompt),)
    return tuple(Message(turn.role, turn.content) for turn in prompt or ())


def read_event(tenant: str, body: bytes | str) -> Event:
    """The event in one JSON text; raises DataError with what is wrong in one sentence, MalformedEvent where it is not JSON."""
    try:
        return event_of(tenant, EventForm.model_validate_json(body))
    except ValidationError as error:
        malformed = any(problem["type"] == "json_invalid" for problem in error.errors(include_url=False)[:1])
        raise (MalformedEvent if malformed else DataError)(first_problem(error)) from error
    except ValueError as error:
        raise DataError(str(error)) from error


def first_problem(error: ValidationError) -> str:
    """The first thing that is wrong, with the field, in one line and without the value."""
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    # Of a value that may be of two types pydantic names the type on the way, which is no field.
    where = ".".join(part for part in map(str, problem["loc"]) if "[" not in part and part != "constrained-str")
    return f"`{where}`: {problem['msg']}" if where else problem["msg"]


_COMPARED = 4000
# A NUL that is one: an even number of backslashes stands before its own.
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
