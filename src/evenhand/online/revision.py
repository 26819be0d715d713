"""Critique and revision: a model says what is wrong with a reply by a principle, and writes it again.

Bai et al. 2022, "Constitutional AI" (arXiv 2212.08073), section 3.1: the revisions are demonstrations for supervised
fine-tuning.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evenhand.data.schema import Message
from evenhand.errors import DataError
from evenhand.evaluation.endpoint import Endpoint, ask_all
from evenhand.evaluation.judge import THINKING, Conversation, Report
from evenhand.evaluation.transcript import Answer, transcript
from evenhand.files import canonical_json, sha256
from evenhand.online.constitution import Constitution, Principle, drawn

_ALONE = "Write only the rewritten reply, without any words about it."


@dataclass(frozen=True, slots=True)
class Pass:
    """One critique, the reply that came of it, and the principle behind both."""

    principle: str
    critique: str
    reply: str


@dataclass(frozen=True, slots=True)
class Revised:
    """A draft and what became of it; `lost` is why a pass is missing, None where all were made."""

    prompt: Conversation
    draft: str
    passes: tuple[Pass, ...] = ()
    category: str | None = None
    lost: str | None = None

    @property
    def reply(self) -> str:
        """The last version."""
        return self.passes[-1].reply if self.passes else self.draft

    @property
    def name(self) -> str:
        """An id that follows from the prompt and the draft."""
        return sha256(canonical_json([[message.json() for message in self.prompt], self.draft]))[:16]

    def row(self, reviser: str, keep: str) -> dict[str, Any] | None:
        """The last version as a demonstration, or as the winner over its draft; None where nothing was changed."""
        if keep == "pair" and self.reply.strip() == self.draft.strip():
            return None
        told: dict[str, Any] = {"id": self.name, "prompt": [message.json() for message in self.prompt]}
        if keep == "demonstration":
            told["response"] = self.reply
        else:
            revised_first = int(self.name, 16) % 2 == 0  # so that no place wins more often than the other
            first, second = (self.reply, self.draft) if revised_first else (self.draft, self.reply)
            told |= {"answer_a": first, "answer_b": second, "verdict": "a" if revised_first else "b"}
        category = {"category": self.category} if self.category else {}
        return told | {"annotator": reviser, **category, "passes": [pass_row(one) for one in self.passes]}


def pass_row(one: Pass) -> dict[str, str]:
    """The pass as a row keeps it."""
    return {"principle": one.principle, "critique": one.critique, "reply": one.reply}


@dataclass(frozen=True, slots=True)
class Reviser:
    """A model behind an endpoint that criticises and rewrites, `passes` times, each by a principle of its own drawing."""

    endpoint: Endpoint
    kept: Path
    constitution: Constitution
    passes: int = 1

    def __post_init__(self) -> None:
        if not self.constitution.revising:
            raise DataError(
                f"the constitution {self.constitution.name} has no principle with `critique` and `revise`; give one both."
            )

    @property
    def name(self) -> str:
        """The model, its address, and by what it revises."""
        return f"{self.endpoint.name} by {self.constitution.name}"

    def revise(self, drafts: Sequence[Revised], report: Report) -> list[Revised]:
        """The drafts after all passes; one that lost an answer on the way keeps what it had, and says why."""
        whole = list(drafts)
        for number in range(self.passes):
            going = [i for i, one in enumerate(whole) if one.lost is None]
            done = self._pass([whole[i] for i in going], number, report)
            for i, one in zip(going, done):
                whole[i] = one
        return whole

    def _pass(self, going: Sequence[Revised], number: int, report: Report) -> list[Revised]:
        principles = [drawn(self.constitution.revising, f"{one.name} {number}") for one in going]
        critiques = self._asked([critique_request(*pair) for pair in zip(going, principles)], report)
        told = [(i, critique) for i, (critique, _) in enumerate(critiques) if critique]
        replies = iter(self._asked([revision_request(going[i], principles[i], c) for i, c in told], report))
        found = []
        for one, principle, (critique, why) in zip(going, principles, critiques):
            reply, why = next(replies) if critique else (None, why)
            if not critique or not reply:
                found.append(replace(one, lost=why))
            else:
                found.append(replace(one, passes=(*one.passes, Pass(principle.id, critique, reply))))
        return found

    def _asked(self, conversations: Sequence[Conversation], report: Report) -> list[tuple[str | None, str | None]]:
        """What was said aloud, or None and why nothing was."""
        with transcript(self.kept) as kept:
            answers = ask_all(self.endpoint, conversations, kept, report)
        return [spoken(answer) for answer in answers]


def spoken(answer: Answer) -> tuple[str | None, str | None]:
    """The answer without what was only thought, or None and why it cannot be used: a cut reply teaches no end.

    >>> spoken(Answer("<think>Hm.</think> Yes. ", 1, 0.1)), spoken(Answer("Yes, and", 1, 0.1, cut=True))
    (('Yes.', None), (None, 'cut off at the limit of tokens'))
    """
    if answer.text is None:
        return None, answer.error
    if answer.cut:
        return None, "cut off at the limit of tokens"
    text = THINKING.sub("", answer.text).strip()
    return (text, None) if text else (None, "an answer without words")


def critique_request(one: Revised, principle: Principle) -> Conversation:
    """The conversation with its reply, and the question what is wrong with that."""
    return (
        *one.prompt,
        Message("assistant", one.reply),
        Message("user", f"Criticise your last reply. {principle.critique}"),
    )


def revision_request(one: Revised, principle: Principle, critique: str) -> Conversation:
    """The conversation with reply and critique, and the wish to write the reply again."""
    asked = Message("user", f"{principle.revise} {_ALONE}")
    return (*critique_request(one, principle), Message("assistant", critique), asked)
