"""A reward model at work: what it gives replies as text, whoever wrote them, as a reward, a judge or a scorer."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from evenhand.data.schema import Message, PreferencePair
from evenhand.evaluation.interval import Floats
from evenhand.evaluation.judge import GapJudge
from evenhand.model.encode import Encoder, Limits, encode_pairs
from evenhand.model.forward import Policy, causal
from evenhand.model.modes import Form, encoder_for
from evenhand.model.score import score_pairs

Conversation = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class RewardModel:
    """A sequence classifier of one label with its own tokenizer and template, by which every reply is read anew."""

    name: str
    policy: Policy
    tokenizer: PreTrainedTokenizerBase
    encoder: Encoder

    @classmethod
    def of(cls, name: str, policy: Policy, tokenizer: PreTrainedTokenizerBase, form: Form) -> "RewardModel":
        """The model, reading texts in the form in which it was trained."""
        return cls(name, policy, tokenizer, encoder_for(tokenizer, form))

    def rewards(self, prompts: Sequence[Conversation], replies: Sequence[str]) -> Floats:
        """The reward of each reply to its prompt; NaN where it has more tokens than the model has positions."""
        pairs = [
            PreferencePair(str(i), i, str(i), prompt, reply, "", lacks="rejected")
            for i, (prompt, reply) in enumerate(zip(prompts, replies))
        ]
        most = getattr(causal(self.policy.model).config.get_text_config(), "max_position_embeddings", None)
        encoding = encode_pairs(pairs, self.encoder, Limits(most or 1 << 30), self.name)
        found = np.full(len(pairs), np.nan)
        if encoding.pairs:
            scored = score_pairs(self.policy, encoding.pairs)
            found[scored.row_B] = scored.chosen_mean_B
        return found

    def __call__(self, prompts: Sequence[Sequence[dict[str, Any]]], replies: Sequence[str]) -> list[float]:
        """The same as a reward function."""
        found: list[float] = self.rewards(
            [tuple(Message(**turn) for turn in prompt) for prompt in prompts], replies
        ).tolist()
        return found

    def judge(self) -> GapJudge:
        """The same as a judge: the reply with the higher reward wins."""
        return GapJudge(f"reward model {self.name}", self._gaps)

    def _gaps(self, pairs: Sequence[PreferencePair]) -> Floats:
        prompts = [pair.prompt for pair in pairs]
        return self.rewards(prompts, [p.chosen for p in pairs]) - self.rewards(prompts, [p.rejected for p in pairs])

    def words(self, other: PreTrainedTokenizerBase) -> str:
        """How it reads the replies of a policy with the tokenizer `other`."""
        if _makes_tokens(self.tokenizer) == _makes_tokens(other):
            return f"rewards by {self.name}, which has the policy's tokenizer"
        return (
            f"rewards by {self.name}, whose tokenizer is another ({type(self.tokenizer).__name__} of {len(self.tokenizer)} "
            f"tokens, the policy's has {len(other)}): replies are tokenised again for it"
        )


def _makes_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """All that makes tokens of a text; what pads is no part of it."""
    made: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return {name: part for name, part in made.items() if name not in ("padding", "truncation")}
