"""A text task whose optimum is known: the first letter of the reply is the arm, and what follows does not matter.

Seeing what a random tiny model says, every arm is drawn often enough to be found; the best possible reward is 1.
"""

import math
from collections.abc import Sequence

import torch
from small_model import small_llama, small_tokenizer
from transformers import PreTrainedTokenizerBase

from evenhand.data.schema import Message
from evenhand.evaluation.generate import Serving
from evenhand.model.template import ChatTemplate
from evenhand.online.rollout import Drawn, Task

ARMS = ("abcdef", "ghijkl", "mnopqr", "stuvwxyz")
WORTH = (0.25, 0.5, 0.75, 1.0)
TASKS = [Task((Message("user", word),)) for word in ("parcel", "invoice", "driver", "window")]


def arm_reward(replies: Sequence[str]) -> list[float]:
    """What the first letter of each reply is worth; 0 for anything else."""
    firsts = (reply.strip()[:1].lower() for reply in replies)
    return [next((w for arm, w in zip(ARMS, WORTH) if first and first in arm), 0.0) for first in firsts]


def worth_of(drawn: Sequence[Drawn]) -> list[float]:
    """The same of replies as they were drawn."""
    return arm_reward([reply.text for reply in drawn])


def bandit_model(sharpness: float = 0.5):
    """The small model with its output layer scaled: flat logits draw every arm, sharp ones can also tell them apart.

    An adapter leaves the output layer as it is. With flat logits no hidden state at all gives a third of the best reward
    (`best_by_states`), so that only training of all weights can learn the task.
    """
    model = small_llama()
    with torch.no_grad():
        model.lm_head.weight.mul_(sharpness)
    return model


def best_by_states(model, steps: int = 300) -> float:
    """The most reward that a last hidden state can be found to give under the model's own output layer and norm."""
    tokenizer, head = small_tokenizer(), model.lm_head.weight.detach()
    worth = torch.tensor(arm_reward([tokenizer.decode([i], skip_special_tokens=True) for i in range(len(head))]))
    state = (head.T @ (worth - worth.mean())).clone().requires_grad_(True)
    optimizer = torch.optim.Adam([state], lr=0.05)
    found = torch.zeros(())
    for _ in range(steps):
        normed = state / state.pow(2).mean().sqrt() * model.model.norm.weight.detach()
        found = ((head @ normed).softmax(0) * worth).sum()
        optimizer.zero_grad()
        (-found).backward()
        optimizer.step()
    return float(found.detach())


def serving(tokenizer: PreTrainedTokenizerBase | None = None) -> Serving:
    return Serving.chat(ChatTemplate(tokenizer or small_tokenizer(), {}))


def regularised_optimum(values: Sequence[float], chances: Sequence[float], kl: float) -> float:
    """The most that reward minus kl times the distance can be: kl * log E[exp(reward / kl)] under the reference."""
    return kl * math.log(sum(p * math.exp(v / kl) for v, p in zip(values, chances)))
