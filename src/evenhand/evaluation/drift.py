"""How far a model has moved from the one it started as: the divergence of their next tokens along replies of either.

Shapes: T tokens of a reply, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from evenhand.evaluation.generate import Generation
from evenhand.evaluation.interval import Sample, family_codes, student_mean
from evenhand.figure import Figure
from evenhand.model.encode import EncodedSide
from evenhand.model.forward import causal, serving

# From a reply after its prompt to the log-probabilities of each of its tokens' alternatives, (T, V).
LogProbs = Callable[[EncodedSide], Tensor]
Told = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Drift:
    """Mean divergence in nats per token, over replies.

    `on_new_replies` is KL(new || start) along the new model's greedy replies, `on_start_replies` KL(start || new) along
    those of the start: each where the first of the two would go by itself.
    """

    on_new_replies: Figure
    on_start_replies: Figure

    def json(self) -> dict[str, Any]:
        """The shape in `evenhand evaluate --json`."""
        return {"on_new_replies": self.on_new_replies.json(), "on_start_replies": self.on_start_replies.json()}


@dataclass(frozen=True, slots=True)
class Along:
    """Replies as tokens, each with its family: the path along which two models are compared."""

    sides: tuple[EncodedSide, ...]
    family: tuple[str | None, ...]

    @classmethod
    def of(cls, generation: Generation, encode: Callable[..., Any]) -> "Along":
        """The replies that said something, encoded as answers to their prompts."""
        told = [(r, f) for r, f in zip(generation.replies, generation.family) if r.text.strip()]
        return cls(tuple(encode(r.prompt, r.text, r.text)[0] for r, _ in told), tuple(family for _, family in told))


def drift(new: LogProbs, start: LogProbs, paths: tuple[Along, Along], report: Told = lambda *_: None) -> Drift:
    """The divergence of `new` from `start` along the new model's replies, and of `start` from `new` along its own."""
    by_new, by_start = paths
    total = len(by_new.sides) + len(by_start.sides)
    first = _mean_kl(new, start, by_new, lambda done: report(done, total))
    second = _mean_kl(start, new, by_start, lambda done: report(len(by_new.sides) + done, total))
    return Drift(first, second)


def log_probs_of(model: PreTrainedModel | PeftModel) -> LogProbs:
    """The model's own log-probabilities, with whatever adapter is on when they are asked for."""

    def told(side: EncodedSide) -> Tensor:
        ids = torch.from_numpy(side.tokens.astype(np.int64))[None].to(model.device)
        with serving(model), torch.no_grad():
            logits_TV = causal(model)(input_ids=ids, use_cache=False).logits[0, side.starts - 1 : -1]
        return torch.log_softmax(logits_TV.float(), dim=-1)

    return told


def _mean_kl(one: LogProbs, other: LogProbs, along: Along, report: Callable[[int], None]) -> Figure:
    means: list[float] = []
    for side in along.sides:
        one_TV, other_TV = one(side), other(side)
        kl_T = (one_TV.exp() * (one_TV - other_TV)).sum(dim=-1)
        means.append(float(kl_T.double().mean()))
        report(len(means))
    return _mean(means, along.family)


def _mean(values: Sequence[float], family: Sequence[str | None]) -> Figure:
    return student_mean(Sample(np.array(values, dtype=np.float64), family_codes(family, len(values)))).within(0.0)
