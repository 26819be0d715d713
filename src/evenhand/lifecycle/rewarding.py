"""The rewards that a recipe or a command names: reward models opened, functions imported, and what each is known by."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from evenhand.errors import ModelError, UserError
from evenhand.files import canonical_json, sha256, sha256_file
from evenhand.lifecycle.base import weights_hash
from evenhand.lifecycle.contestant import load_contestant
from evenhand.model.load import find_source
from evenhand.online.reward_model import RewardModel
from evenhand.online.rewards import Function, Reward, columns_of, is_function, load_function
from evenhand.training.reward_section import RewardPart

Say = Callable[[str], None]


def part_of(text: str) -> RewardPart:
    """A reward as a command names it: its source, or WEIGHT*SOURCE.

    >>> part_of("0.5*runs/reward").weight, part_of("own.py:brief").source
    (0.5, 'own.py:brief')
    """
    weight, star, source = text.partition("*")
    try:
        return RewardPart(source=source, weight=float(weight)) if star else RewardPart(source=text)
    except ValueError as error:
        raise UserError(
            f"--reward {text!r} is no reward; write runs/reward, own.py:function or 0.5*runs/reward."
        ) from error


def open_reward_model(name: str, say: Say) -> RewardModel:
    """The reward model of a run, an export, a model folder or a hub id; raises ModelError for one that answers."""
    found = load_contestant(name, "auto", say)
    if not found.policy.gives_rewards:
        raise ModelError(
            f"{name} is a model that answers and gives no rewards; train a reward model with `objective: {{name: reward}}`, or "
            "name a function: file.py:name."
        )
    return RewardModel.of(name, found.policy, found.tokenizer, found.form)


def open_rewards(parts: Sequence[RewardPart], tokenizer: PreTrainedTokenizerBase, say: Say) -> tuple[Reward, ...]:
    """Each reward, ready to be called, with a word on each; `tokenizer` is that of the model whose replies are rewarded.

    Raises RecipeError for what is no function, ModelError for what is no reward model.
    """
    rewards = []
    for part in parts:
        if is_function(part.source):
            function: Function = load_function(part.source, part.arguments)
            say(f"rewards by {part.source}, weight {part.weight:g}")
        else:
            function = open_reward_model(part.source, say)
            say(f"{function.words(tokenizer)}, weight {part.weight:g}")
        rewards.append(Reward(part.source, function, part.weight))
    return tuple(rewards)


def columns_asked(parts: Sequence[RewardPart]) -> tuple[str, ...]:
    """The columns of the data that the rewards' functions ask for by name."""
    functions = [load_function(part.source, part.arguments) for part in parts if is_function(part.source)]
    return tuple(dict.fromkeys(name for function in functions for name in columns_of(function)))


def reward_identity(parts: Sequence[RewardPart]) -> dict[str, str]:
    """What each reward is made of, by name: a model's weights, or the file of a function."""
    return {f"reward.{i + 1}": sha256(canonical_json([part.source, _content(part)])) for i, part in enumerate(parts)}


def _content(part: RewardPart) -> str:
    if not is_function(part.source):
        return weights_hash(find_source(part.source))
    function = load_function(part.source, part.arguments)
    file = inspect.getsourcefile(function.func if isinstance(function, partial) else function)
    return sha256_file(Path(file)) if file else ""
