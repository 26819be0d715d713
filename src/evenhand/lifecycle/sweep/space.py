"""What a sweep tries: stages as SimPO's authors advise (learning rate, then beta, then margin), or a space of the recipe's."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from evenhand.errors import RecipeError
from evenhand.files import canonical_json, sha256
from evenhand.training.practice_sections import DrawingSection
from evenhand.training.recipe import Recipe, check_recipe, recipe_value
from evenhand.training.section import Section
from evenhand.training.sections import Seed

RATE, BETA, MARGIN = "training.learning_rate", "objective.beta", "objective.margin"
# github.com/princeton-nlp/SimPO, README: beta 2.0 to 2.5, larger for instruct models up to 10; gamma/beta from 0 to 1.
BETAS, MARGINS = (2.0, 2.5, 5.0, 10.0), (0.1, 0.3, 0.5, 0.8)
RATE_FACTORS = (1 / 3, 1.0, 3.0)
# A seed is luck and no setting; the data decides what is compared; which way a reference is had moves no number, and
# another one makes other losses. None of them is searched.
_SEARCHED = ("training.", "objective.", "model.adapter.")
_NEVER = (
    *("training.seed", "objective.name", "objective.preset", "objective.paper_gamma"),
    *("objective.reference", "objective.reference_model", "objective.reference_cache"),
)
Params = Mapping[str, Any]


class Range(Section):
    """All numbers from `low` to `high`; the whole ones, where the recipe's key takes no others."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}, and above 0 with `log`")
        return self


class SweepSection(Section):
    """The `sweep` section of a recipe; without `space` it goes stage by stage."""

    learning_rates: tuple[PositiveFloat, ...] | None = Field(None, description="left out: a third, one and three times")
    betas: tuple[PositiveFloat, ...] | None = Field(None, description="left out: 2, 2.5, 5, 10 for SimPO")
    margins: tuple[float, ...] | None = Field(None, description="left out: 0.1, 0.3, 0.5, 0.8; SimPO only")
    space: dict[str, Range | tuple[Any, ...]] | None = Field(None, description="key: [values] or {low, high, log}")
    trials: PositiveInt | None = Field(None, description="how many, with `space`; raise it later for more")
    prune: bool = Field(True, description="end a trial early that stands below the median of the others at that step")
    length_drift: Annotated[float, Field(gt=1)] | None = Field(
        2.0,
        description="the median reply may change by this factor; more, beyond both intervals, and a trial cannot win",
    )
    seed: Seed = Field(0, description="of the sampler, with `space`")

    @model_validator(mode="after")
    def _one_way(self) -> "SweepSection":
        stages = (self.learning_rates, self.betas, self.margins)
        if self.space is not None and any(stage is not None for stage in stages):
            raise ValueError("give `space`, or stages (`learning_rates`, `betas`, `margins`), and not both")
        if (self.space is None) != (self.trials is None):
            raise ValueError("`trials` belongs to `space`: stages say themselves how many trials they are")
        if self.space == {}:
            raise ValueError("`space` names no key to search")
        for key, own in (self.space or {}).items():
            if not key.startswith(_SEARCHED) or key in _NEVER:
                raise ValueError(f"`space` has {key}; searched are keys of training, objective and model.adapter")
            if own == ():
                raise ValueError(f"`space` lists no value of {key}")
        return self


@dataclass(frozen=True, slots=True)
class Stage:
    """One key and the values to try, the rest as in the best trial so far."""

    key: str
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A recipe and its sweep."""

    recipe: Recipe
    sweep: SweepSection

    @property
    def start(self) -> dict[str, Any]:
        """The recipe's own values of what the stages try."""
        own = self.recipe.objective.resolved()
        found = {RATE: self.recipe.training.learning_rate}
        return found | {key: own[key.partition(".")[2]] for key in (BETA, MARGIN) if key.partition(".")[2] in own}

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages in order; none with a space."""
        if self.sweep.space is not None:
            return ()
        start, sweep, simpo = self.start, self.sweep, self.recipe.objective.name == "simpo"
        made = [Stage(RATE, sweep.learning_rates or tuple(factor * start[RATE] for factor in RATE_FACTORS))]
        if BETA in start:
            near = BETAS if simpo else tuple(factor * start[BETA] for factor in RATE_FACTORS)
            made.append(Stage(BETA, sweep.betas or tuple(sorted({*near, start[BETA]}))))
        if simpo:
            made.append(Stage(MARGIN, sweep.margins or tuple(sorted({*MARGINS, start[MARGIN]}))))
        return tuple(made)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """What Optuna is told of each key."""
        if self.sweep.space is not None:
            return {key: self._distribution(key, own) for key, own in self.sweep.space.items()}
        start = self.start
        every = {stage.key: (*stage.values, start[stage.key]) for stage in self.stages}
        return {key: FloatDistribution(min(own), max(own), log=key != MARGIN) for key, own in every.items()}

    def _distribution(self, key: str, own: Range | tuple[Any, ...]) -> BaseDistribution:
        """What Optuna is told of a key of the space; raises RecipeError for a range where the recipe takes no number."""
        if not isinstance(own, Range):
            return CategoricalDistribution(own)
        kind = type(attrgetter(key)(self.trial(self._firsts | {key: own.low})))
        if kind is int:
            return IntDistribution(int(own.low), int(own.high), log=own.log)
        if kind is not float:
            raise RecipeError(f"`sweep.space` has a range for {key}, which is no number; list its values.")
        return FloatDistribution(own.low, own.high, log=own.log)

    @property
    def most(self) -> int | None:
        """How many trials there will be: as many as asked for, or all that the space holds; None with stages, which say it
        themselves."""
        asked, listed = self.sweep.trials, self._listed
        return asked if asked is None or listed is None else min(asked, prod(len(values) for values in listed))

    def combinations(self) -> Iterator[dict[str, Any]]:
        """All different trials of a space, one after another; none of a space without end."""
        listed = self._listed
        for values in product(*listed) if listed is not None else ():
            yield dict(zip(self.sweep.space or {}, values))

    @property
    def _listed(self) -> list[Sequence[Any]] | None:
        """Every value of each key of a space; None where there is no end of them."""
        found: list[Sequence[Any]] = []
        for own in self.distributions.values():
            match own:
                case CategoricalDistribution():
                    found.append([one for i, one in enumerate(own.choices) if one not in own.choices[:i]])
                case IntDistribution():
                    found.append(range(own.low, own.high + 1))
                case _:
                    return None
        return found

    @property
    def _firsts(self) -> dict[str, Any]:
        """The first value of each key that is tried: the recipe's own with stages."""
        return {key: _bounds(own)[0] for key, own in (self.sweep.space or {}).items()} or self.start

    def check(self) -> None:
        """Raise RecipeError for a value that makes no recipe beside the first one of every other key."""
        space = self.sweep.space or {}
        tried = [(key, _bounds(own)) for key, own in space.items()]
        for key, values in tried or [(stage.key, stage.values) for stage in self.stages]:
            for value in values:
                self.trial(self._firsts | {key: value})
        for key, own in space.items():
            self._distribution(key, own)

    def trial(self, params: Params) -> Recipe:
        """The recipe of one trial; raises RecipeError for values that make none."""
        value: dict[str, Any] = self.recipe.model_dump(mode="json")
        if self.recipe.objective.name == "simpo":  # a preset and the paper's gamma are other names for the same numbers
            resolved = self.recipe.objective.resolved()
            value["objective"] |= {
                "preset": None,
                "paper_gamma": None,
                "beta": resolved["beta"],
                "margin": resolved["margin"],
            }
        for key, own in params.items():
            *path, last = key.split(".")
            part: Any = value
            for name in path:
                part = part.get(name) if isinstance(part, dict) else None
            if not isinstance(part, dict):
                raise RecipeError(
                    f"`sweep.space` has {key} and the recipe has no section `{'.'.join(path)}`; leave the key out, or "
                    "give the recipe that section."
                )
            part[last] = own
        recipe = check_recipe(value, f"the trial {words(params)}")
        recipe.objective.build()
        return recipe


def read_sweep(path: Path, changes: tuple[str, ...] = ()) -> Wanted:
    """The recipe in a YAML file and its `sweep` section, if it has one, with `key.key=value` changes applied.

    Raises RecipeError for what is no recipe, for a method that does not learn from pairs, and for keys or values to try
    that make no recipe.
    """
    value = recipe_value(path, changes)
    try:
        sweep = SweepSection.model_validate(value.pop("sweep", None) or {})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(["sweep", *(str(part) for part in first["loc"])])
        raise RecipeError(f"{path}: `{key}`: {first['msg'].removeprefix('Value error, ')}.") from error
    value.pop("stages", None)
    wanted = Wanted(check_recipe(value, str(path)), sweep)
    if (
        isinstance(wanted.recipe.objective, DrawingSection)
        or wanted.recipe.objective.build().traits.examples != "pairs"
    ):
        raise RecipeError(
            f"{path}: `objective.name` is {wanted.recipe.objective.name}; a sweep ranks methods that learn from pairs by "
            "their accuracy on held-out pairs."
        )
    wanted.check()
    return wanted


def trial_name(recipe: Recipe) -> str:
    """A name that follows from everything a trial is, and from nothing else."""
    value = recipe.resolved()
    del value["name"]
    return sha256(canonical_json(value))[:12]


def words(params: Params) -> str:
    """The values of a trial, for a person.

    >>> words({"training.learning_rate": 1e-4, "objective.beta": 2.0})
    'learning_rate 0.0001, beta 2'
    """
    return ", ".join(
        f"{key.rpartition('.')[2]} {value:.4g}" if isinstance(value, float) else f"{key.rpartition('.')[2]} {value}"
        for key, value in params.items()
    )


def sampler(seed: int, number: int) -> optuna.samplers.BaseSampler:
    """The sampler of trial `number`: what it proposes follows from the seed and the trials before, and not from how
    often a worker was started."""
    return optuna.samplers.TPESampler(seed=(seed * 1_000_003 + number) % 2**32)


def _bounds(own: Range | tuple[Any, ...]) -> tuple[Any, ...]:
    """Both ends of a range, or every value of a list."""
    return (own.low, own.high) if isinstance(own, Range) else own
