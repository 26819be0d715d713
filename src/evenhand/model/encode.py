"""A pair as tokens: what is fed, and from which token on it is scored."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evenhand.data.schema import Message, PreferencePair, Refusal
from evenhand.errors import ConversationError, DataError

Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class EncodedSide:
    """Prompt and answer as one run of tokens; those from index `starts` on are the answer and are scored.

    A side without tokens is absent: a demonstration has no rejected answer, a thumb down no chosen one.
    """

    tokens: Tokens
    starts: int

    @property
    def scored(self) -> int:
        """|y|: the number of scored tokens, the end-of-turn token included."""
        return len(self.tokens) - self.starts

    @property
    def absent(self) -> bool:
        """Whether there is no such side."""
        return len(self.tokens) == 0


ABSENT = EncodedSide(np.zeros(0, dtype=np.int32), 0)


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """A preference pair as tokens. `cut` names the sides that were shortened to fit and lost their end-of-turn."""

    row: int
    id: str
    group: str
    chosen: EncodedSide
    rejected: EncodedSide
    cut: tuple[str, ...] = ()


# (prompt, chosen, rejected) -> both sides; a mode of encoding is one such function.
Encoder = Callable[[tuple[Message, ...], str, str], tuple[EncodedSide, EncodedSide, tuple[str, ...]]]


@dataclass(frozen=True, slots=True)
class Limits:
    """At most `max_tokens` a side, prompt included. `drop_turns` lets whole oldest turns go to make room."""

    max_tokens: int
    drop_turns: bool = False


@dataclass(frozen=True, slots=True)
class Encoding:
    """Encoded pairs in the order given, and a refusal for each pair that could not be encoded."""

    pairs: Sequence[EncodedPair]
    refusals: tuple[Refusal, ...]


def encode_pairs(pairs: Iterable[PreferencePair], encoder: Encoder, limits: Limits, source: str) -> Encoding:
    """Encode every pair; those that do not fit or are empty become refusals naming their row in `source`."""
    found = [encode_pair(pair, encoder, limits, source) for pair in pairs]
    return Encoding(
        tuple(one for one in found if isinstance(one, EncodedPair)),
        tuple(one for one in found if isinstance(one, Refusal)),
    )


def encode_pair(pair: PreferencePair, encoder: Encoder, limits: Limits, source: str) -> EncodedPair | Refusal:
    """The pair as tokens, or why it cannot be used.

    Reasons: `too_long`, `no_scored_token`, `identical_answers_tokenised`, `template_refused`.
    """
    try:
        return _encoded(pair, encoder, limits, source)
    except ConversationError as error:
        return _refusal(pair, source, "template_refused", str(error))


def _encoded(pair: PreferencePair, encoder: Encoder, limits: Limits, source: str) -> EncodedPair | Refusal:
    prompt = pair.prompt
    chosen, rejected, cut = _sides(pair, prompt, encoder)
    while limits.drop_turns and _longest(chosen, rejected) > limits.max_tokens:
        shorter = without_oldest_turn(prompt)
        if shorter is None:
            break
        prompt = shorter
        chosen, rejected, cut = _sides(pair, prompt, encoder)
    if (longest := _longest(chosen, rejected)) > limits.max_tokens:
        detail = f"{longest} tokens with its prompt, and `max_tokens` is {limits.max_tokens}"
        return _refusal(pair, source, "too_long", detail)
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        if not side.absent and (side.scored < 1 or side.starts < 1):
            return _refusal(pair, source, "no_scored_token", f"the {name} answer has no scored token")
    if np.array_equal(chosen.tokens, rejected.tokens):
        return _refusal(pair, source, "identical_answers_tokenised", "both answers have the same tokens")
    return EncodedPair(pair.row, pair.id, pair.group, chosen, rejected, cut)


def _sides(
    pair: PreferencePair, prompt: tuple[Message, ...], encoder: Encoder
) -> tuple[EncodedSide, EncodedSide, tuple[str, ...]]:
    """Both sides after `prompt`; of a pair that lacks one, the other as the encoder makes it beside itself."""
    match pair.lacks:
        case "rejected":
            only, _, cut = encoder(prompt, pair.chosen, pair.chosen)
            return only, ABSENT, cut[:1]
        case "chosen":
            _, only, cut = encoder(prompt, pair.rejected, pair.rejected)
            return ABSENT, only, cut[1:]
    return encoder(prompt, pair.chosen, pair.rejected)


def _longest(chosen: EncodedSide, rejected: EncodedSide) -> int:
    return max(len(chosen.tokens), len(rejected.tokens))


def without_oldest_turn(prompt: tuple[Message, ...]) -> tuple[Message, ...] | None:
    """The prompt less its oldest user turn and the answer to it, the system message kept; None when one turn is left."""
    system = prompt[:1] if prompt and prompt[0].role == "system" else ()
    turns = prompt[len(system) :]
    starts = [i for i, message in enumerate(turns) if message.role == "user"]
    return (*system, *turns[starts[1] :]) if len(starts) > 1 else None


def _refusal(pair: PreferencePair, source: str, reason: str, detail: str) -> Refusal:
    text = pair.prompt[-1].content if pair.prompt else ""
    return Refusal(file=source, line=None, row=pair.row, reason=reason, detail=detail, text=text[:500])


def side(tokens: list[int], starts: int) -> EncodedSide:
    """An EncodedSide from plain integers."""
    return EncodedSide(np.asarray(tokens, dtype=np.int32), starts)


def require_pairs(encoding: Encoding, source: str) -> Sequence[EncodedPair]:
    """The encoded pairs; raises DataError where none is left, with the reasons."""
    if encoding.pairs:
        return encoding.pairs
    if not encoding.refusals:
        raise DataError(f"{source}: there are no pairs.")
    reasons = ", ".join(sorted({refusal.reason for refusal in encoding.refusals}))
    first = encoding.refusals[0]
    raise DataError(
        f"{source}: none of {len(encoding.refusals)} pairs can be used ({reasons}); the first is row {first.row}: "
        f"{first.detail.rstrip('.')}."
    )
