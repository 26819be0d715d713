"""Replies drawn from a policy as a server would feed it: tokens to learn from, and text to reward."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evenhand.evaluation.generate import (
    Conversation,
    Sampling,
    Serving,
    as_served,
    continued,
    decoding,
    until,
)
from evenhand.model.encode import EncodedSide, side
from evenhand.model.forward import Policy
from evenhand.online.rewards import Answered


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt to answer, with what rewards may look at beside the reply; `family` as in a PreferencePair."""

    prompt: Conversation
    columns: Mapping[str, Any] = field(default_factory=dict, hash=False)
    family: str | None = None


@dataclass(frozen=True, slots=True)
class Drawn:
    """One sampled reply: its tokens after those of its prompt, its text, and whether it ended by itself."""

    task: Task
    tokens: EncodedSide
    text: str
    ended: bool


def answered(drawn: Sequence[Drawn]) -> Answered:
    """The replies as rewards look at them."""
    return answers_to([reply.task for reply in drawn], [reply.text for reply in drawn])


def answers_to(tasks: Sequence[Task], replies: Sequence[str]) -> Answered:
    """One reply to each task as rewards look at them."""
    names = sorted({name for task in tasks for name in task.columns})
    columns = {name: [task.columns.get(name) for task in tasks] for name in names}
    return Answered([task.prompt for task in tasks], replies, columns)


@dataclass(frozen=True, slots=True)
class Draw:
    """How many replies to a prompt, how long, drawn how, and how many of them at a time."""

    replies: int
    max_new_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    at_once: int = 32


def draw(policy: Policy, serving: Serving, tasks: Sequence[Task], how: Draw) -> list[Drawn]:
    """`how.replies` replies to each task, one task after another, from torch's generator as it stands."""
    fed = [serving.prompt_tokens(task.prompt) for task in tasks for _ in range(how.replies)]
    asked = [task for task in tasks for _ in range(how.replies)]
    drawn: list[Drawn] = []
    config = decoding(policy.model, serving, how.max_new_tokens, how.sampling)
    with as_served(policy.model, config) as stops:
        for start in range(0, len(fed), how.at_once):
            prompts = fed[start : start + how.at_once]
            for at, ids in enumerate(continued(policy.model, prompts), start):
                drawn.append(_drawn(asked[at], fed[at], until(ids, stops), serving, stops))
    return drawn


def _drawn(task: Task, prompt: list[int], ids: list[int], serving: Serving, stops: frozenset[int]) -> Drawn:
    ended = ids[-1] in stops
    text = serving.tokenizer.decode(
        ids[:-1] if ended else ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return Drawn(task, side(prompt + ids, len(prompt)), str(text), ended)
