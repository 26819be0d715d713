"""Blind votes on two models' replies: who has voted on what, in which order it was shown, as judgments in one file."""

import json
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evenhand.data.read import read_judgments
from evenhand.data.schema import Verdict
from evenhand.errors import DataError
from evenhand.evaluation.generate import Generation
from evenhand.evaluation.judge import Question, Ruling
from evenhand.evaluation.winrate import Judged
from evenhand.files import canonical_json, sha256, storage_error


def questions_of(one: Generation, other: Generation) -> list[Question]:
    """The prompts that both answered, differently, each once; raises DataError where there is none."""
    answers = {reply.prompt: reply.text for reply in other.replies}
    made = {
        reply.prompt: Question(_name(reply), reply.prompt, reply.text, answers[reply.prompt], family)
        for reply, family in zip(one.replies, one.family)
        if reply.prompt in answers and reply.text != answers[reply.prompt]
    }
    if not made:
        raise DataError("there is no prompt that both models answered, and differently; nothing can be voted on.")
    return list(made.values())


def _name(reply: Any) -> str:
    return sha256(canonical_json([message.json() for message in reply.prompt]))[:16]


@dataclass(frozen=True, slots=True)
class Shown:
    """One question as one voter sees it: the order is drawn from voter and question, and stays the same."""

    question: Question
    a_first: bool

    @property
    def replies(self) -> tuple[str, str]:
        """Left and right."""
        pair = (self.question.answer_a, self.question.answer_b)
        return pair if self.a_first else (pair[1], pair[0])

    def verdict(self, choice: str) -> Verdict:
        """What `left`, `right` or `tie` says of a and b."""
        if choice == "tie":
            return "tie"
        return "a" if (choice == "left") == self.a_first else "b"


class Ballot:
    """The votes of all voters in one append-only file of judgments."""

    def __init__(self, questions: Sequence[Question], path: Path) -> None:
        self.questions = {question.id: question for question in questions}
        self.path = path
        self._voted: set[tuple[str, str]] = set()
        if path.exists():
            for line in path.read_text(encoding="utf-8").split("\n"):
                if line:
                    self._voted.add(self._known(line))

    def _known(self, line: str) -> tuple[str, str]:
        try:
            row = json.loads(line)
            return row["annotator"], row["question"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self.path} is no file of votes ({line[:60]!r}); choose another.") from error

    def done(self, voter: str) -> int:
        """How many of the questions this voter has voted on."""
        return sum((voter, name) in self._voted for name in self.questions)

    def next(self, voter: str) -> Shown | None:
        """The next question for this voter, in an order of their own; None when all are done."""
        order = list(self.questions)
        random.Random(f"order {voter}").shuffle(order)
        name = next((name for name in order if (voter, name) not in self._voted), None)
        return None if name is None else self.shown(voter, name)

    def shown(self, voter: str, name: str) -> Shown:
        """A question as this voter sees it."""
        return Shown(self.questions[name], random.Random(f"side {voter} {name}").random() < 0.5)

    def vote(self, voter: str, name: str, choice: str, time: str) -> bool:
        """Keep one vote, on the disk before this returns; False where this voter has voted on it before."""
        if (voter, name) in self._voted:
            return False
        shown = self.shown(voter, name)
        question = shown.question
        row = {
            "id": f"{name}-{sha256(voter.encode())[:8]}",
            "question": name,
            "group": name,
            "prompt": [message.json() for message in question.prompt],
            "answer_a": question.answer_a,
            "answer_b": question.answer_b,
            "verdict": shown.verdict(choice),
            "annotator": voter,
            "shown_first": "a" if shown.a_first else "b",
            "time": time,
        }
        line = json.dumps(row, ensure_ascii=False) + "\n"
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise storage_error(error, self.path, len(line)) from error
        self._voted.add((voter, name))
        return True


def votes_of(path: Path) -> Judged:
    """The votes in a file as rulings: each voter's on each question, the votes on one question being one family.

    A person sees one order alone, so it stands for both: position bias cannot be told from one vote.
    """
    judgments = read_judgments(path).judgments
    questions = tuple(Question(j.id, j.prompt, j.answer_a, j.answer_b, f"group {j.group}") for j in judgments)
    return Judged(questions, tuple(Ruling(j.verdict, j.verdict) for j in judgments))
