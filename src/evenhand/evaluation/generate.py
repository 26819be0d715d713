"""What a model says to held-out prompts, greedily and as a server would: length, repetition, and whether it ends."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from evenhand.data.schema import Message
from evenhand.errors import DataError
from evenhand.evaluation.interval import Floats, Sample, family_codes, median, quantile, share, student_mean
from evenhand.figure import Figure
from evenhand.model.forward import serving
from evenhand.model.template import ChatTemplate

Conversation = tuple[Message, ...]
Report = Callable[[int, int], None]

MAX_NEW_TOKENS = 256
_GRAM = 4


@dataclass(frozen=True, slots=True)
class Serving:
    """How a server feeds a model: the prompt's tokens up to the first token of the reply, and where the reply ends."""

    tokenizer: PreTrainedTokenizerBase
    prompt_tokens: Callable[[Conversation], list[int]]
    stop_tokens: frozenset[int]

    @classmethod
    def chat(cls, template: ChatTemplate) -> "Serving":
        """By the chat template, ending at its end-of-turn token or the tokenizer's eos."""
        eos = template.tokenizer.eos_token_id
        stops = {template.end_of_turn} | ({int(eos)} if eos is not None else set())
        return cls(template.tokenizer, template.prompt_tokens, frozenset(stops))


@dataclass(frozen=True, slots=True)
class Reply:
    """One greedy reply. `tokens` counts the end token like scoring does; `repetition` looks at the text's tokens.

    `reward` is what the rewards of a run say of it, None where there are none.
    """

    prompt: Conversation
    text: str
    tokens: int
    characters: int
    ended: bool
    repetition: float
    reward: float | None = None

    def json(self) -> dict[str, Any]:
        """The reply as one JSON row."""
        return {
            "prompt": [message.json() for message in self.prompt],
            "text": self.text,
            "tokens": self.tokens,
            "characters": self.characters,
            "ended": self.ended,
            "repetition": self.repetition,
            **({} if self.reward is None else {"reward": self.reward}),
        }


@dataclass(frozen=True, slots=True)
class Generation:
    """Replies in the order of their prompts; `family` keeps near-duplicate prompts from counting as independent.

    `left_out` prompts were too long to leave the model room for a reply; they are in no figure.
    """

    replies: tuple[Reply, ...]
    family: tuple[str | None, ...]
    left_out: int = 0

    def first(self, count: int) -> "Generation":
        """The replies to the first `count` prompts."""
        return Generation(self.replies[:count], self.family[:count])

    @property
    def median_tokens(self) -> Figure:
        """Median length of a reply in tokens."""
        return median(self._sample([reply.tokens for reply in self.replies]))

    @property
    def median_characters(self) -> Figure:
        """Median length of a reply in characters."""
        return median(self._sample([reply.characters for reply in self.replies]))

    @property
    def repetition(self) -> Figure:
        """Mean share of a reply's token 4-grams already seen in that reply."""
        return student_mean(self._sample([reply.repetition for reply in self.replies])).within(0.0)

    @property
    def ended(self) -> Figure:
        """Share of replies that stop by themselves within the limit of new tokens."""
        return share(self._sample([reply.ended for reply in self.replies]))

    @property
    def reward(self) -> Figure:
        """Mean reward of the replies that have one; a reward need not say something of every reply."""
        return student_mean(self._sample(self.reward_B).where(~np.isnan(self.reward_B)))

    @property
    def reward_B(self) -> Floats:
        """The reward of each reply, NaN where it has none."""
        rewards = [np.nan if reply.reward is None else reply.reward for reply in self.replies]
        return np.array(rewards, dtype=np.float64)

    def distinct(self, words: int) -> Figure:
        """Mean share of a reply's runs of so many words that stand in it for the first time; empty replies left out."""
        told = [i for i, reply in enumerate(self.replies) if len(reply.text.split()) >= words]
        family_B = family_codes(self.family, len(self.replies))[told]
        found = np.array([distinct(self.replies[i].text.split(), words) for i in told], dtype=np.float64)
        return student_mean(Sample(found, family_B)).within(0.0, 1.0)

    def quartiles(self) -> dict[str, tuple[Figure, Figure]]:
        """First and third quartile of the replies' lengths, in tokens and in characters."""
        lengths = {
            name: self._sample([getattr(reply, name) for reply in self.replies]) for name in ("tokens", "characters")
        }
        return {name: (quantile(sample, 0.25), quantile(sample, 0.75)) for name, sample in lengths.items()}

    def json(self) -> dict[str, Any]:
        """The figures that `evenhand evaluate --json` states under `generation`."""
        quartiles = {
            f"{place}_quartile_{name}": figure.json()
            for name, pair in self.quartiles().items()
            for place, figure in zip(("lower", "upper"), pair)
        }
        return {
            "median_tokens": self.median_tokens.json(),
            "median_characters": self.median_characters.json(),
            **quartiles,
            "repetition": self.repetition.json(),
            "distinct_1": self.distinct(1).json(),
            "distinct_2": self.distinct(2).json(),
            "ended": self.ended.json(),
            **({} if self.reward.value is None else {"reward": self.reward.json()}),
        }

    def _sample(self, values: Sequence[float] | Floats) -> Sample:
        return Sample(np.array(values, dtype=np.float64), family_codes(self.family, len(self.replies)))


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn; at temperature 1 and top_p 1 from the model's own distribution."""

    temperature: float = 1.0
    top_p: float = 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a reply may get, and how many prompts are answered at a time; the latter changes no figure."""

    max_new_tokens: int = MAX_NEW_TOKENS
    batch_prompts: int = 16


def generate(
    model: PreTrainedModel,
    serving: Serving,
    prompts: Sequence[tuple[Conversation, str | None]],
    limits: Limits | None = None,
    report: Report | None = None,
) -> Generation:
    """Greedy replies to `prompts`, each with its family or None.

    The model's own sampling settings are set aside, and its training mode, attention and settings are as before
    afterwards. `report` is told how many of how many prompts are answered. In float32 replies do not depend on
    `batch_prompts`; in half precision an almost equal pair of tokens may fall the other way.

    Raises DataError where no prompt leaves room for a reply.
    """
    limits, report = limits or Limits(), report or _silent
    tokens = [serving.prompt_tokens(prompt) for prompt, _ in prompts]
    fitting = [i for i, ids in enumerate(tokens) if len(ids) + limits.max_new_tokens <= _positions(model)]
    if not fitting:
        raise DataError(
            f"none of {len(prompts)} prompts leaves room for {limits.max_new_tokens} new tokens among the model's "
            f"{_positions(model):.0f} positions; give shorter prompts."
        )
    longest_first = sorted(fitting, key=lambda i: (-len(tokens[i]), i))
    replies: dict[int, Reply] = {}
    with as_served(model, decoding(model, serving, limits.max_new_tokens)) as stops:
        for start in range(0, len(longest_first), limits.batch_prompts):
            batch = longest_first[start : start + limits.batch_prompts]
            for i, ids in zip(batch, continued(model, [tokens[i] for i in batch])):
                replies[i] = reply_of(prompts[i][0], until(ids, stops), stops, serving.tokenizer)
            report(len(replies), len(fitting))
    family = tuple(prompts[i][1] for i in fitting)
    return Generation(tuple(replies[i] for i in fitting), family, len(prompts) - len(fitting))


def reply_of(
    prompt: Conversation, ids: Sequence[int], stops: frozenset[int], tokenizer: PreTrainedTokenizerBase
) -> Reply:
    """The reply that generated `ids` stand for; a stop token may only be the last of them."""
    ended = bool(ids) and ids[-1] in stops
    said = list(ids[:-1] if ended else ids)
    text = str(tokenizer.decode(said, skip_special_tokens=True, clean_up_tokenization_spaces=False))
    return Reply(prompt, text, len(ids), len(text), ended, repetition(said))


def repetition(ids: Sequence[int]) -> float:
    """The share of 4-grams that were already seen; 0 where there is none.

    >>> repetition([1, 2, 3, 4, 1, 2, 3, 4])
    0.2
    """
    grams = [tuple(ids[i : i + _GRAM]) for i in range(len(ids) - _GRAM + 1)]
    return (len(grams) - len(set(grams))) / len(grams) if grams else 0.0


def distinct(words: Sequence[str], run: int) -> float:
    """The share of runs of `run` words that are seen for the first time (Li et al. 2016, within one text).

    >>> distinct(["no", "no", "thanks"], 1)
    0.6666666666666666
    """
    runs = [tuple(words[i : i + run]) for i in range(len(words) - run + 1)]
    return len(set(runs)) / len(runs)


def _silent(done: int, total: int) -> None:
    """Report to nobody."""


def _positions(model: PreTrainedModel) -> float:
    """How many positions the model was made for; infinite where its configuration does not tell."""
    return float(getattr(model.config.get_text_config(), "max_position_embeddings", None) or "inf")


def decoding(
    model: PreTrainedModel, serving: Serving, max_new_tokens: int, sampling: Sampling | None = None
) -> GenerationConfig:
    """Greedy decoding, or plain sampling, that stops at every token that a server would stop at."""
    own = getattr(model, "generation_config", None)
    listed = getattr(own, "eos_token_id", None)
    own_stops = listed if isinstance(listed, list) else [listed] if listed is not None else []
    stops = sorted(serving.stop_tokens | set(own_stops))
    pad = serving.tokenizer.pad_token_id
    drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0} if sampling else {}
    return GenerationConfig(
        do_sample=sampling is not None,
        **drawn,
        num_beams=1,
        use_cache=True,
        max_new_tokens=max_new_tokens,
        eos_token_id=stops or None,
        pad_token_id=pad if pad is not None else (stops or [0])[0],
    )


@contextmanager
def as_served(model: PreTrainedModel, config: GenerationConfig) -> Iterator[frozenset[int]]:
    """The model in evaluation mode, with a server's attention and `config` alone; as before on leaving."""
    holders = [model, *([model.get_base_model()] if hasattr(model, "get_base_model") else [])]
    own_configs = [getattr(holder, "generation_config", None) for holder in holders]
    with serving(model):
        try:
            for holder in holders:
                holder.generation_config = config
            yield frozenset(config.eos_token_id or ())
        finally:
            for holder, own in zip(holders, own_configs):
                holder.generation_config = own


def continued(model: PreTrainedModel, prompts: list[list[int]]) -> list[list[int]]:
    """New token ids for each prompt, padded on the left and answered together."""
    width = max(len(ids) for ids in prompts)
    pad = model.generation_config.pad_token_id
    rows = torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=model.device)
    # One rank answers alone: transformers would wait for the others wherever it sees shards.
    out: Tensor = model.generate(input_ids=rows, attention_mask=mask, synced_gpus=False)
    return [list(map(int, row)) for row in out[:, width:].tolist()]


def until(ids: list[int], stops: frozenset[int]) -> list[int]:
    """`ids` up to and with the first stop token: what follows it is padding."""
    end = next((i for i, token in enumerate(ids) if token in stops), len(ids) - 1)
    return ids[: end + 1]
