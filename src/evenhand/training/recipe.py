"""A recipe: everything that decides a run, in one YAML file, checked before anything is loaded."""

import json
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from evenhand.errors import RecipeError
from evenhand.model.adapter import Adapter
from evenhand.model.modes import Form
from evenhand.objectives.presets import PRESETS
from evenhand.training.objective_sections import SECTIONS, ObjectiveSection, ReferenceSection, SimPOSection
from evenhand.training.practice_sections import DrawingSection
from evenhand.training.reward_section import RewardPart
from evenhand.training.section import Section, nearest
from evenhand.training.sections import (
    DataSection,
    EvaluationSection,
    GuardSection,
    ModelSection,
    TrainingSection,
)
from evenhand.yamlfile import read_yaml

# With full fine-tuning a learning rate from here on makes a model incoherent (SimPO's authors).
RISKY_LEARNING_RATE = 1e-5
# No published setting has a larger target gap, in nats per token.
LARGE_MARGIN = 2.0


class Recipe(Section):
    """One run."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")] = Field(description="names the run folder")
    model: ModelSection
    data: DataSection
    objective: ObjectiveSection
    training: TrainingSection
    evaluation: EvaluationSection = EvaluationSection()
    guard: GuardSection = GuardSection()

    @model_validator(mode="after")
    def _has_reference(self) -> "Recipe":
        objective = self.objective
        if isinstance(objective, ReferenceSection) and objective.reference == "adapter_off" and not self.model.adapter:
            raise ValueError(
                f"`objective.reference` of {objective.name} is adapter_off and `model.adapter` is null, so there is no "
                "adapter to switch off; take `reference: model`, which loads a second model, or `reference: cached`, "
                "which keeps its scores in a file"
            )
        return self

    def resolved(self) -> dict[str, Any]:
        """The recipe as JSON with every default filled in, and the objective in both of its units."""
        value: dict[str, Any] = self.model_dump(mode="json")
        return value | {"objective": self.objective.resolved()}

    @property
    def rewards(self) -> tuple[RewardPart, ...]:
        """What replies are rewarded by: those that are learned from, else those that the report is to tell."""
        section = self.objective
        return section.rewards if isinstance(section, DrawingSection) else self.evaluation.rewards

    @property
    def form(self) -> Form:
        """How this recipe's pairs become tokens."""
        data = self.data
        return Form(
            max_tokens=data.max_tokens,
            template=data.template,
            compat=data.compat,
            max_prompt_tokens=data.max_prompt_tokens,
            drop_turns=data.drop_turns,
            arguments=dict(data.template_arguments),
        )

    @property
    def adapter(self) -> Adapter | None:
        """LoRA's settings; None for full fine-tuning."""
        part = self.model.adapter
        return None if part is None else Adapter(part.rank, part.alpha, part.dropout, part.targets)


def read_recipe(path: Path, changes: tuple[str, ...] = ()) -> Recipe:
    """The recipe in a YAML file, with `key.key=value` changes applied.

    Raises RecipeError that names the key, what is wrong with it and the nearest right one.
    """
    return check_recipe(recipe_value(path, changes), str(path))


def recipe_value(path: Path, changes: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a YAML file holds, with `changes` applied, before it is checked; raises RecipeError where it is no mapping."""
    try:
        value = read_yaml(path)
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror}; write a recipe with `evenhand init`.") from error
    except ValueError as error:
        raise RecipeError(f"{path} is not YAML: {error}.") from error
    if not isinstance(value, dict):
        raise RecipeError(f"{path} does not hold a recipe; write one with `evenhand init`.")
    for change in changes:
        _apply(value, change)
    return value


def check_recipe(value: dict[str, Any], name: str) -> Recipe:
    """`value` as a Recipe; `name` says in errors where it came from."""
    _refuse_gamma(value, name)
    try:
        return Recipe.model_validate(value)
    except ValidationError as error:
        raise RecipeError(f"{name}: {_sentence(error)}") from error


def refuse_risk(recipe: Recipe) -> None:
    """Raise RecipeError for a learning rate that is known to ruin a model, unless the user insists.

    Supervised fine-tuning bears more than preferences do.
    """
    preferences = recipe.objective.name != "sft"
    if preferences and recipe.model.adapter is None and recipe.training.learning_rate >= RISKY_LEARNING_RATE:
        raise RecipeError(
            f"`training.learning_rate` is {recipe.training.learning_rate:g} with full fine-tuning (`model.adapter: null`), "
            f"and from {RISKY_LEARNING_RATE:g} on preference training makes a model incoherent; use 3e-7 to 1e-6, or pass --force."
        )


def advice(recipe: Recipe) -> list[str]:
    """What a person should know before the run, a sentence each."""
    section = recipe.objective
    if isinstance(section, SimPOSection):
        return _simpo_advice(section)
    numbers = [f"{key} {value:g}" for key, value in section.resolved().items() if type(value) in (int, float)]
    switches = [key for key, value in section.resolved().items() if value is True]
    said = (
        f"{type(section.build()).__name__} with {', '.join(numbers + switches)}"
        if numbers
        else "supervised fine-tuning"
    )
    return [f"{said}; reference: {section.reference}" if isinstance(section, ReferenceSection) else said]


def _simpo_advice(section: SimPOSection) -> list[str]:
    objective = section.build()
    said = [
        f"SimPO with beta {objective.beta:g}, margin {objective.margin:g} nats per token (paper gamma {objective.paper_gamma:g})"
    ]
    if section.preset and (preset := PRESETS[section.preset]):
        rate = f"; its learning rate for full fine-tuning was {preset.learning_rate:g}" if preset.learning_rate else ""
        said.append(f"preset {section.preset}: {preset.source}{rate}")
    if objective.margin > LARGE_MARGIN:
        said.append(
            f"margin {objective.margin:g} is above {LARGE_MARGIN:g} nats per token, more than anyone has published"
        )
    return said


def _refuse_gamma(value: dict[str, Any], name: str) -> None:
    objective = value.get("objective")
    if not isinstance(objective, dict) or "gamma" not in objective:
        return
    gamma, beta = objective["gamma"], objective.get("beta")
    try:
        reading = f"`paper_gamma: {gamma}`, which is a margin of {float(str(gamma)) / float(str(beta)):g}"
    except (TypeError, ValueError, ZeroDivisionError):  # no beta beside it, or not numbers
        reading = f"`paper_gamma: {gamma}`, which is a margin of gamma / beta"
    raise RecipeError(
        f"{name}: `objective.gamma` has two meanings; write `margin: {gamma}` if it is the gap in nats per token (the "
        f"authors' gamma_beta_ratio), or {reading}, if it is the paper's and TRL's simpo_gamma (= beta * margin)."
    )


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"] if not _is_union_tag(part))
    match first["type"]:
        case "extra_forbidden":
            return f"`{key}` is not a key of a recipe{nearest(str(first['loc'][-1]), _keys_at(first['loc'][:-1]))}."
        case "missing":
            return f"`{key}` is missing; it decides the result and has no default."
        case "union_tag_not_found":
            return f"`{key}.name` is missing; it decides the result and has no default; known: {', '.join(SECTIONS)}."
        case "union_tag_invalid":
            named = first["ctx"]["tag"]
            return f"`{key}.name` is {named}{nearest(named, list(SECTIONS))}."
    said = first["msg"].removeprefix("Value error, ")
    return f"`{key}`: {said[0].lower()}{said[1:]}." if key else f"{said}."


def _is_union_tag(part: Any) -> bool:
    return part in ("float", "str", "int", *SECTIONS) or "constrained" in str(part)


def _keys_at(location: tuple[Any, ...]) -> list[str]:
    section: type[BaseModel] = Recipe
    for part in location:
        if part in SECTIONS:
            section = SECTIONS[part]
            continue
        annotation = section.model_fields[part].annotation if part in section.model_fields else None
        options = [annotation, *getattr(annotation, "__args__", ())]
        section = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), Recipe)
    return list(section.model_fields)


def _apply(value: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {change!r} is not key=value, such as training.learning_rate=5e-5.")
    *path, last = key.split(".")
    for part in path:
        inner = value.setdefault(part, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"--set {change!r}: `{part}` is not a section of the recipe.")
        value = inner
    try:
        value[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {change!r}: the value is not YAML.") from error


def recipe_schema() -> str:
    """The JSON Schema of a recipe, for editors."""
    return json.dumps(Recipe.model_json_schema(), indent=2) + "\n"
