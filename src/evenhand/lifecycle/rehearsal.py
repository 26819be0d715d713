"""A dry run: rows, tokens, steps, memory and minutes before anything is trained, and one pair token by token."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evenhand.errors import UserError
from evenhand.lifecycle.bench import Telling
from evenhand.model.encode import EncodedPair, EncodedSide
from evenhand.model.forward import Policy
from evenhand.model.load import choose_device, choose_dtype, find_source, load_model, load_tokenizer
from evenhand.model.pack import forest_tokens, pack
from evenhand.objectives.objective import Objective
from evenhand.training.budget import default_budget
from evenhand.training.examples import examples_of
from evenhand.training.material import encode_texts, read_texts
from evenhand.training.memory import memory_peak_bytes
from evenhand.training.plan import make_plan
from evenhand.training.practice_sections import DrawingSection
from evenhand.training.recipe import Recipe
from evenhand.training.train import make_policy

_PROBE_TOKENS = 1024
# Master, gradient and two moments of AdamW, in fp32.
_BYTES_PER_TRAINED_WEIGHT = 16


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a run would do. Times come from one measured micro-batch of `probe_tokens` tokens on this machine."""

    rows_in: int
    rows_used: int
    refused: dict[str, int]
    train_pairs: int
    validation_pairs: int
    tokens_per_epoch: int
    tokens_as_rows: int
    steps: int
    trained_weights: int
    optimizer_bytes: int
    memory_peak_bytes: int
    probe_tokens: int
    tokens_per_second: float
    minutes: float
    example: tuple[str, ...]

    def json(self) -> dict[str, Any]:
        """All fields by name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "example"} | {
            "example": list(self.example)
        }

    def words(self) -> str:
        """For a person."""
        saved = 1 - self.tokens_per_epoch / self.tokens_as_rows
        lines = [
            f"rows: {self.rows_in} in, {self.rows_used} used, refused {self.refused or 'none'}",
            f"pairs: {self.train_pairs} to train on, {self.validation_pairs} held out",
            f"tokens: {self.tokens_per_epoch} a pass ({saved:.0%} fewer than as separate rows)",
            f"steps: {self.steps}",
            f"trained weights: {self.trained_weights:,} ({self.optimizer_bytes / 2**20:.0f} MiB with optimizer)",
            f"memory: {self.memory_peak_bytes / 2**30:.1f} GiB peak, measured on a micro-batch of {self.probe_tokens} tokens",
            f"time: about {self.minutes:.1f} min of training at the {self.tokens_per_second:.0f} tokens/s measured here",
            "one pair, token by token (* is scored):",
            *self.example,
        ]
        return "\n".join(lines)


def rehearse(recipe: Recipe, tell: Telling) -> Rehearsal:
    """Do everything but train; nothing is written. Raises what a run would raise before its first step."""
    section = recipe.objective
    if isinstance(section, DrawingSection):
        raise UserError(
            f"--dry-run measures steps on answers that are there, and {section.name} draws its own; see what a step takes with "
            "--set training.steps=2 and an --out of its own."
        )
    source = find_source(recipe.model.source)
    objective = section.build()
    texts = read_texts(recipe.data, objective.traits.examples)
    tokenizer = load_tokenizer(source)
    material = encode_texts(texts, tokenizer, recipe.form)
    for sentence in material.said:
        tell.say(sentence)
    training = recipe.training
    examples = examples_of(material.train, objective.traits.examples)
    plan = make_plan(examples, training.batch_pairs, training.seed, (training.steps, training.epochs))
    device = choose_device()
    dtype, rewards = choose_dtype(recipe.model.dtype, device), objective.traits.of_rewards
    model = load_model(source, dtype, device, recipe.model.load_in_4bit, rewards)
    policy = make_policy(model, recipe.adapter, training)
    for sentence in policy.words():
        tell.say(sentence)
    probe_tokens, seconds = _probe(policy, (recipe, objective), examples)
    per_epoch = sum(forest_tokens([pair]) for pair in examples)
    trained = sum(weight.numel() for weight in policy.parameters() if weight.requires_grad)
    tokens = per_epoch / len(examples) * training.batch_pairs * plan.steps
    return Rehearsal(
        rows_in=material.rows_in,
        rows_used=material.rows_used,
        refused=material.refused,
        train_pairs=len(examples),
        validation_pairs=len(material.validation),
        tokens_per_epoch=per_epoch,
        tokens_as_rows=sum(len(s.tokens) for pair in examples for s in (pair.chosen, pair.rejected)),
        steps=plan.steps,
        trained_weights=trained,
        optimizer_bytes=trained * _BYTES_PER_TRAINED_WEIGHT,
        memory_peak_bytes=memory_peak_bytes(device),
        probe_tokens=probe_tokens,
        tokens_per_second=probe_tokens / seconds,
        minutes=tokens * seconds / probe_tokens / 60,
        example=tuple(token_lines(examples[0], tokenizer.decode)),
    )


def _probe(policy: Policy, given: tuple[Recipe, Objective], examples: Sequence[EncodedPair]) -> tuple[int, float]:
    """Tokens and seconds of one forward and backward, the second of two so that nothing is measured cold."""
    recipe, objective = given
    batch: list[EncodedPair] = []
    limit = min(_PROBE_TOKENS, recipe.training.token_budget or default_budget(policy.device))
    for pair in examples:
        if batch and forest_tokens([*batch, pair]) > limit:
            break
        batch.append(pair)
    packed = pack(batch)
    policy.train()
    seconds = 0.0
    for _ in range(2):
        began = time.perf_counter()
        scores = policy(packed)
        objective(scores, scores.detached()).sum().backward()
        seconds = time.perf_counter() - began
    return packed.tokens, seconds


def token_lines(pair: EncodedPair, decode: Any) -> list[str]:
    """The pair's tokens, a side a line, each token in brackets and the scored ones starred."""
    sides = {"chosen:   ": pair.chosen, "rejected: ": pair.rejected}
    return [word + _tokens(side, decode) for word, side in sides.items() if not side.absent]


def _tokens(side: EncodedSide, decode: Any) -> str:
    shown = []
    for i, token in enumerate(side.tokens.tolist()):
        text = decode([token]).encode("unicode_escape").decode()
        shown.append(f"[{text}]*" if i >= side.starts else f"[{text}]")
    return "".join(shown)
