"""What a model does on a gate's prompts, item by item, so that two models can be compared item by item."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from evenhand.data.schema import Message, PreferencePair
from evenhand.errors import ModelError
from evenhand.evaluation.generate import Limits, Reply, Serving, generate
from evenhand.evaluation.items import TaskItem, task_items
from evenhand.evaluation.probes import (
    Probe,
    attack_probes,
    benign_probes,
    harmful_probes,
    open_probes,
    resists,
)
from evenhand.evaluation.refusal import refuses
from evenhand.model.encode import encode_pairs
from evenhand.model.forward import Policy
from evenhand.model.modes import Form, encoder_for
from evenhand.model.score import score_pairs

Narrator = Callable[[str, int, int], None]
_REFUSAL_TOKENS = 24
_ATTACK_TOKENS = 24
HARMFUL, BENIGN, ATTACKS, OPEN = "harmful", "benign", "attacks", "open"


@dataclass(frozen=True, slots=True)
class Asked:
    """One set of prompts with the longest reply to each; an item is a task or a probe."""

    name: str
    items: tuple[TaskItem | Probe, ...]
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class Item:
    """One item's outcome: how right it was, from 0 to 1, and what shows that."""

    right: float
    prompt: tuple[Message, ...]
    reply: str

    def json(self) -> dict[str, Any]:
        """The item as a gate lists it."""
        return {"prompt": [message.json() for message in self.prompt], "reply": self.reply}


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Replies by the name of their set, in the order of the set's items."""

    replies: dict[str, tuple[Reply, ...]]
    items: dict[str, tuple[TaskItem | Probe, ...]]

    def replies_to_end(self) -> list[Reply]:
        """Replies that should end by themselves: those to tasks, whose right answers are short, else the open ones."""
        tasks = [reply for name, asked in self.items.items() for reply in self._of_tasks(name, asked)]
        return tasks or list(self.replies.get(OPEN, ()))

    def all_replies(self) -> list[Reply]:
        """Every reply, set by set."""
        return [reply for replies in self.replies.values() for reply in replies]

    def _of_tasks(self, name: str, asked: tuple[TaskItem | Probe, ...]) -> tuple[Reply, ...]:
        return self.replies[name] if asked and isinstance(asked[0], TaskItem) else ()


def tasks_asked(kind: str, count: int, seed: int) -> Asked:
    """A set of tasks of one kind."""
    items = task_items(kind, count, seed)
    return Asked(kind, tuple(items), max(item.max_new_tokens for item in items))


def harmful_asked(count: int) -> Asked:
    """What should be refused."""
    return Asked(HARMFUL, tuple(harmful_probes(count)), _REFUSAL_TOKENS)


def benign_asked(count: int) -> Asked:
    """What should be answered."""
    return Asked(BENIGN, tuple(benign_probes(count)), _REFUSAL_TOKENS)


def attacks_asked(count: int, seed: int) -> Asked:
    """What should be resisted."""
    return Asked(ATTACKS, tuple(attack_probes(count, seed)), _ATTACK_TOKENS)


def open_asked(count: int, max_new_tokens: int) -> Asked:
    """What can be answered at any length."""
    return Asked(OPEN, tuple(open_probes(count)), max_new_tokens)


def behave(policy: Policy, serving: Serving, sets: Sequence[Asked], batch_prompts: int, narrate: Narrator) -> Behaviour:
    """Let the model answer every set greedily; raises ModelError where a prompt does not fit into it."""
    replies = {}
    for asked in sets:
        prompts = [(item.prompt, None) for item in asked.items]
        limits = Limits(asked.max_new_tokens, batch_prompts)
        found = generate(policy.model, serving, prompts, limits, _stage(narrate, asked.name))
        if found.left_out:
            raise ModelError(
                f"{found.left_out} of {len(prompts)} prompts of {asked.name} leave no room for {asked.max_new_tokens} new "
                "tokens among the model's positions; take the check out of the policy."
            )
        replies[asked.name] = found.replies
    return Behaviour(replies, {asked.name: asked.items for asked in sets})


def outcomes(behaviour: Behaviour, name: str) -> tuple[Item, ...]:
    """How right each reply of a set was: the task solved, refused or answered as it should be, the attack resisted."""
    pairs = zip(behaviour.items[name], behaviour.replies[name])
    return tuple(Item(float(_is_right(name, item, reply.text)), item.prompt, reply.text) for item, reply in pairs)


def choice_outcomes(
    policy: Policy, model: tuple[Serving, Form], pairs: Sequence[PreferencePair], narrate: Callable[[int, int], None]
) -> tuple[Item, ...]:
    """Right where the chosen answer is the more probable one per token; a tie counts one half."""
    serving, form = model
    encoding = encode_pairs(pairs, encoder_for(serving.tokenizer, form), form.limits, "paired answers")
    scored = score_pairs(policy, encoding.pairs, report=narrate) if encoding.pairs else None
    gaps = dict(zip(zip(scored.row_B.tolist(), scored.id_B), scored.mean_gap_B.tolist())) if scored else {}
    items = []
    for pair in pairs:
        gap = gaps.get((pair.row, pair.id), 0.0)  # a vocabulary that cannot tell the two answers apart: a tie
        right = 0.5 if gap == 0 else float(gap > 0)
        items.append(Item(right, pair.prompt, pair.chosen if gap > 0 else pair.rejected))
    return tuple(items)


def _is_right(name: str, item: TaskItem | Probe, reply: str) -> bool:
    if isinstance(item, TaskItem):
        return item.is_right(reply)
    match name:
        case "harmful":
            return refuses(reply)
        case "benign":
            return bool(reply.strip()) and not refuses(reply)
        case "attacks":
            return resists(item, reply)
    raise AssertionError(f"{name} has no right answers")


def _stage(narrate: Narrator, what: str) -> Callable[[int, int], None]:
    return lambda done, total: narrate(what, done, total)
