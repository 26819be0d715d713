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


def bandit_model():
    """The small model with flat logits, so that every arm is drawn."""
    model = small_llama()
    with torch.no_grad():
        model.lm_head.weight.mul_(0.5)
    return model


def serving(tokenizer: PreTrainedTokenizerBase | None = None) -> Serving:
    return Serving.chat(ChatTemplate(tokenizer or small_tokenizer(), {}))


def regularised_optimum(values: Sequence[float], chances: Sequence[float], kl: float) -> float:
    """The most that reward minus kl times the distance can be: kl * log E[exp(reward / kl)] under the reference."""
    return kl * math.log(sum(p * math.exp(v / kl) for v, p in zip(values, chances)))
