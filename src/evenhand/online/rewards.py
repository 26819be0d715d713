"""What a reply is worth: plain functions, checked, and added up by their weights."""

import importlib
import importlib.util
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from evenhand.data.schema import Message
from evenhand.errors import NonFiniteError, RecipeError, UserError

Conversation = tuple[Message, ...]
# function(prompts, replies, **columns): one number a reply, None where the reward says nothing of it. It is called by
# name: `prompts` as lists of {"role", "content"}, `replies` as texts, `completions` as TRL's one-message lists, and each
# column of the rows. A function without ** is given those that it names; a parameter with a default names no column.
Function = Callable[..., Sequence[float | None]]

_FUNCTION = re.compile(r"(?P<place>[\w.]+|.*\.py):(?P<name>[A-Za-z_]\w*)")
_GIVEN = ("prompts", "replies", "completions")


@dataclass(frozen=True, slots=True)
class Answered:
    """Replies beside the prompts they answer; each of `columns` has a value for each reply."""

    prompts: Sequence[Conversation]
    replies: Sequence[str]
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        """What a function is called with."""
        return {
            **self.columns,
            "prompts": [[message.json() for message in prompt] for prompt in self.prompts],
            "replies": list(self.replies),
            "completions": [[{"role": "assistant", "content": reply}] for reply in self.replies],
        }


@dataclass(frozen=True, slots=True)
class Reward:
    """A function with the name that errors and reports call it by, and its weight in the sum."""

    name: str
    function: Function
    weight: float = 1.0

    def values(self, answered: Answered) -> list[float | None]:
        """What it says of each reply, not yet weighted; None where it says nothing of it.

        Raises BrokenRewardError where it throws, gives another number of values or one that is no number; UserError where
        it says that what it needs is not there.
        """
        try:
            said = self.function(**_wanted(self.function, answered.arguments()))
            values = [None if value is None else float(value) for value in said]
        except (BrokenRewardError, UserError):
            raise
        except Exception as error:  # a user's function may raise anything
            raise BrokenRewardError(self.name, f"threw {type(error).__name__}: {error}") from error
        if len(values) != len(answered.replies):
            raise BrokenRewardError(self.name, f"gave {len(values)} values for {len(answered.replies)} replies")
        if broken := [i for i, value in enumerate(values) if value is not None and not math.isfinite(value)]:
            value, reply = values[broken[0]], answered.replies[broken[0]]
            raise BrokenRewardError(
                self.name, f"is {value} for {len(broken)} of {len(values)} replies, first {reply[:60]!r}"
            )
        return values


class BrokenRewardError(NonFiniteError):
    """A reward that threw, was not a number, or was the same for all replies: there is nothing to learn from."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"the reward {name} {why}")
        self.name = name


def worth(rewards: Sequence[Reward], answered: Answered) -> list[float | None]:
    """The weighted sum of what the rewards say of each reply, None where none says anything.

    Raises BrokenRewardError, which names the reward, where one is broken.
    """
    weights = [reward.weight for reward in rewards]
    said = zip(*(reward.values(answered) for reward in rewards), strict=True)
    return [_sum([w * value for w, value in zip(weights, values) if value is not None]) for values in said]


def _sum(values: Sequence[float]) -> float | None:
    return math.fsum(values) if values else None


def taught(scores: Sequence[float | None]) -> list[float]:
    """The scores as a method learns from them: 0 for a reply of which nothing is said."""
    return [0.0 if score is None else score for score in scores]


def mean_said(scores: Sequence[float | None]) -> float | None:
    """The mean score of the replies of which something is said, None where there are none.

    >>> mean_said([1.0, None, 0.0])
    0.5
    """
    said = [score for score in scores if score is not None]
    return math.fsum(said) / len(said) if said else None


def require_difference(rewards: Sequence[Reward], scores: Sequence[float | None], about: str = "") -> None:
    """Raise BrokenRewardError, with a word `about` the replies, where all have one score or none: they teach nothing."""
    names, values = " + ".join(reward.name for reward in rewards), taught(scores)
    if all(score is None for score in scores):
        raise BrokenRewardError(names, f"says nothing of any of {len(scores)} replies{about}")
    if len(values) > 1 and len(set(values)) == 1:
        raise BrokenRewardError(names, f"is {values[0]:g} for all {len(values)} replies{about}")


def is_function(source: str) -> bool:
    """Whether `source` names a function, and not a model.

    >>> is_function("rewards.py:brief"), is_function("team.rewards:brief"), is_function("runs/reward")
    (True, True, False)
    """
    return _FUNCTION.fullmatch(source) is not None


def load_function(source: str, arguments: Mapping[str, Any] | None = None) -> Function:
    """The function that `module:function` or `file.py:function` names, with `arguments` given to it in each call.

    Importing it executes the module. Raises RecipeError where there is none, or it cannot be called with replies.
    """
    found = _FUNCTION.fullmatch(source)
    if found is None:
        raise RecipeError(f"the reward {source!r} is neither module:function nor file.py:function.")
    function = getattr(_module(found["place"], source), found["name"], None)
    if not callable(function):
        raise RecipeError(f"the reward {source} cannot be found: {found['place']} has no function {found['name']}.")
    given = dict(arguments or {})
    _refuse_signature(source, function, given)
    return partial(function, **given) if given else function


def _module(place: str, source: str) -> ModuleType:
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        spec = importlib.util.spec_from_file_location(Path(place).stem, place)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except Exception as error:  # what is imported is the user's, and may raise anything
        raise RecipeError(
            f"the reward {source} cannot be loaded: {place} raised {type(error).__name__}: {error}."
        ) from error
    return module


def columns_of(function: Function) -> tuple[str, ...]:
    """The columns that a function asks for by name: parameters without a default.

    >>> columns_of(lambda prompts, replies, answer, digits=2, **columns: [])
    ('answer',)
    """
    named = _parameters(function)
    return tuple(
        name for name, own in named.items() if _is_named(own) and own.default is own.empty and name not in _GIVEN
    )


def _refuse_signature(source: str, function: Function, given: Mapping[str, Any]) -> None:
    named = _parameters(function)
    takes_all = any(own.kind is own.VAR_KEYWORD for own in named.values())
    strange = [name for name in given if name not in named and not takes_all]
    if strange:
        raise RecipeError(f"the reward {source} has no argument {strange[0]}; it has {', '.join(named)}.")
    alone = [name for name, own in named.items() if own.kind is own.POSITIONAL_ONLY]
    if alone or not (takes_all or {"replies", "completions"} & named.keys()):
        raise RecipeError(
            f"the reward {source} takes ({', '.join(named)}); a reward is called by name with `prompts`, `replies` (or "
            "TRL's `completions`) and the columns it names: def reward(prompts, replies, **columns)."
        )


def _wanted(function: Function, arguments: dict[str, Any]) -> dict[str, Any]:
    """Of the arguments those that the function names, all where it takes any."""
    named = _parameters(function)
    if any(own.kind is own.VAR_KEYWORD for own in named.values()):
        return arguments
    return {name: value for name, value in arguments.items() if name in named}


def _parameters(function: Function) -> Mapping[str, inspect.Parameter]:
    """By name, without those that are given already."""
    fixed = function.keywords if isinstance(function, partial) else {}
    return {name: own for name, own in inspect.signature(function).parameters.items() if name not in fixed}


def _is_named(own: inspect.Parameter) -> bool:
    return own.kind in (own.POSITIONAL_OR_KEYWORD, own.KEYWORD_ONLY)
