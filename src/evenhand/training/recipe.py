"""A recipe: everything that decides a run, in one YAML file, checked before anything is loaded."""

import difflib
import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from evenhand.errors import RecipeError
from evenhand.model.adapter import Adapter
from evenhand.model.load import DtypeName
from evenhand.model.modes import Form
from evenhand.objectives.presets import PRESETS
from evenhand.objectives.simpo import SimPO

Tracker = Literal["tensorboard", "mlflow", "wandb", "trackio"]
# What both numpy and torch take as a seed.
Seed = Annotated[int, Field(ge=0, lt=2**63)]
# With full fine-tuning a learning rate from here on makes a model incoherent (SimPO's authors).
RISKY_LEARNING_RATE = 1e-5
# No published setting has a larger target gap, in nats per token.
LARGE_MARGIN = 2.0


class Section(BaseModel):
    """A part of a recipe: frozen, and an unknown key is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True, allow_inf_nan=False
    )


class AdapterSection(Section):
    """LoRA; `adapter: null` is full fine-tuning."""

    rank: PositiveInt = Field(16, description="rank of the low-rank product; vLLM serves 16 or less by default")
    alpha: PositiveFloat = Field(32.0, description="the product is scaled by alpha / rank")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="dropout before the low-rank product")
    targets: tuple[str, ...] | None = Field(
        None, description="names of linear layers; left out: all but the output layer"
    )


class ModelSection(Section):
    """The chat model to start from."""

    source: str = Field(description="a folder saved by transformers, a hub id, or builtin:smollm2-135m")
    adapter: AdapterSection | None = Field(AdapterSection(), description="LoRA settings, or null for full fine-tuning")
    dtype: DtypeName = Field(
        "auto", description="auto is bfloat16 where the hardware multiplies it natively, else float32"
    )


class DataSection(Section):
    """Preference pairs: one `source` that is split, or `train` with an optional `validation` file."""

    source: str | None = Field(None, description="file, folder or hub id of pairs or judgments, split by prompt family")
    train: str | None = Field(None, description="file of training pairs, used whole")
    validation: float | str | None = Field(None, description="with `source` a share such as 0.1, with `train` a file")
    max_tokens: PositiveInt = Field(
        2048, description="longest side, prompt included; longer rows are refused and counted"
    )
    max_prompt_tokens: PositiveInt | None = Field(None, description="only for `compat: authors`")
    drop_turns: bool = Field(False, description="make room by dropping whole oldest turns of the prompt")
    kind: str | None = Field(None, description="force the kind of row instead of recognising it")
    template: Literal["chat", "plain"] = Field("chat", description="plain: prompt, newline, answer, end of text")
    template_arguments: dict[str, Any] = Field(
        {}, description="arguments of the chat template, such as enable_thinking"
    )
    compat: Literal["authors", "trl"] | None = Field(None, description="reproduce another trainer's tokens")
    split_seed: Seed = Field(0, description="seed of the split by prompt family")

    @model_validator(mode="after")
    def _one_way(self) -> "DataSection":
        if (self.source is None) == (self.train is None):
            raise ValueError("give either `source` (it is split) or `train` (used whole), and not both")
        if self.source is not None and isinstance(self.validation, str):
            raise ValueError("with `source`, `validation` is a share such as 0.1; with `train` it is a file")
        if self.train is not None and isinstance(self.validation, float):
            raise ValueError("with `train`, `validation` is a file; with `source` it is a share such as 0.1")
        if isinstance(self.validation, float) and not 0 < self.validation < 1:
            raise ValueError(f"`validation` is {self.validation}; a share lies between 0 and 1")
        if self.compat == "authors" and self.max_prompt_tokens is None:
            raise ValueError(
                "`compat: authors` cuts the prompt, so `max_prompt_tokens` is needed (the authors used 1800)"
            )
        if self.compat is not None and (self.template == "plain" or self.template_arguments):
            raise ValueError("`compat` decides the template by itself; leave `template` and `template_arguments` out")
        if self.compat != "authors" and self.max_prompt_tokens is not None:
            raise ValueError("`max_prompt_tokens` is read only with `compat: authors`; leave it out")
        return self


class ObjectiveSection(Section):
    """SimPO's numbers: beta and margin, or a named preset."""

    name: Literal["simpo"] = Field(description="the method")
    beta: PositiveFloat | None = Field(None, description="gradient temperature of the sigmoid")
    margin: float | None = Field(None, description="target gap in nats per token: the authors' gamma_beta_ratio")
    paper_gamma: float | None = Field(
        None, description="the margin in reward units, as in the paper and TRL: beta * margin"
    )
    preset: str | None = Field(None, description="published beta and margin: " + ", ".join(PRESETS))
    label_smoothing: float = Field(0.0, description="share of labels assumed wrong")
    hinge: bool = Field(False, description="hinge in place of the logistic loss")
    sft_weight: float = Field(0.0, description="weight of the mean negative log-likelihood per chosen token")

    @model_validator(mode="after")
    def _complete(self) -> "ObjectiveSection":
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(f"preset {self.preset!r} is unknown{_nearest(self.preset, list(PRESETS))}")
        if self.preset is None and self.beta is None:
            raise ValueError("`beta` is missing; published ones are 2 to 10, or name a `preset`")
        if self.preset is None and self.margin is None and self.paper_gamma is None:
            raise ValueError("give `margin` (nats per token) or `paper_gamma` (= beta * margin)")
        beta, margin = self._numbers()
        said = {
            "beta": (self.beta, beta),
            "margin": (self.margin, margin),
            "paper_gamma": (self.paper_gamma, beta * margin),
        }
        for name, (given, wanted) in said.items():
            if given is not None and not math.isclose(given, wanted, rel_tol=1e-9):
                raise ValueError(
                    f"`{name}` is {given:g} and the other keys make it {wanted:g}; leave it out, or the others"
                )
        return self

    def _numbers(self) -> tuple[float, float]:
        """beta and margin: a preset's, else those given, the paper's gamma divided by beta."""
        if self.preset is not None:
            return PRESETS[self.preset].beta, PRESETS[self.preset].margin
        assert self.beta is not None
        if self.margin is not None:
            return self.beta, self.margin
        assert self.paper_gamma is not None
        return self.beta, self.paper_gamma / self.beta

    def build(self) -> SimPO:
        """The objective these numbers make."""
        beta, margin = self._numbers()
        return SimPO(beta, margin, self.label_smoothing, self.hinge, self.sft_weight)


class TrainingSection(Section):
    """The loop. `steps` overrides `epochs`."""

    batch_pairs: PositiveInt = Field(description="pairs per optimizer step, over all ranks")
    epochs: PositiveInt | None = Field(None, description="passes over the training pairs")
    steps: PositiveInt | None = Field(None, description="optimizer steps; overrides epochs")
    learning_rate: PositiveFloat = Field(description="peak learning rate of AdamW")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="after the warm-up")
    warmup: Annotated[float, Field(ge=0, le=1)] = Field(0.1, description="share of the steps")
    seed: Seed = Field(description="of data order, adapter and dropout")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="AdamW's, on matrices only")
    max_gradient_norm: PositiveFloat = Field(1.0, description="gradients are scaled down to this norm")
    validate_every: PositiveInt | None = Field(None, description="steps between validations; left out: at the end")
    checkpoint_every: PositiveInt | None = Field(None, description="steps between checkpoints; left out: at the end")
    keep_checkpoints: PositiveInt = Field(2, description="newest checkpoints kept, beside the best")
    patience: PositiveInt | None = Field(None, description="stop after so many validations without a lower loss")
    token_budget: PositiveInt | None = Field(
        None, description="tokens per micro-batch; left out: chosen for the device"
    )
    checkpoint_activations: bool = Field(False, description="trade time for memory: recompute activations")
    report_to: tuple[Tracker, ...] = Field((), description="trackers: tensorboard, mlflow, wandb, trackio")

    @model_validator(mode="after")
    def _length(self) -> "TrainingSection":
        if self.epochs is None and self.steps is None:
            raise ValueError("give `epochs` or `steps`")
        return self


class EvaluationSection(Section):
    """What is asked of the model before and after training."""

    prompts: Annotated[int, Field(ge=0)] = Field(
        32, description="held-out prompts answered before and after; 0 for none"
    )
    max_new_tokens: PositiveInt = Field(256, description="a reply that has not ended by then counts as not ended")


class Recipe(Section):
    """One run."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")] = Field(description="names the run folder")
    model: ModelSection
    data: DataSection
    objective: ObjectiveSection
    training: TrainingSection
    evaluation: EvaluationSection = EvaluationSection()

    def resolved(self) -> dict[str, Any]:
        """The recipe as JSON with every default filled in, and the objective in both of its units."""
        objective = self.objective.build()
        value: dict[str, Any] = self.model_dump(mode="json")
        value["objective"] |= {"beta": objective.beta, "margin": objective.margin, "paper_gamma": objective.paper_gamma}
        return value

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
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror}; write a recipe with `evenhand init`.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(value, dict):
        raise RecipeError(f"{path} does not hold a recipe; write one with `evenhand init`.")
    for change in changes:
        _apply(value, change)
    return check_recipe(value, str(path))


def check_recipe(value: dict[str, Any], name: str) -> Recipe:
    """`value` as a Recipe; `name` says in errors where it came from."""
    _refuse_gamma(value, name)
    try:
        return Recipe.model_validate(value)
    except ValidationError as error:
        raise RecipeError(f"{name}: {_sentence(error)}") from error


def refuse_risk(recipe: Recipe) -> None:
    """Raise RecipeError for a learning rate that is known to ruin a model, unless the user insists."""
    if recipe.model.adapter is None and recipe.training.learning_rate >= RISKY_LEARNING_RATE:
        raise RecipeError(
            f"`training.learning_rate` is {recipe.training.learning_rate:g} with full fine-tuning (`model.adapter: null`), "
            f"and from {RISKY_LEARNING_RATE:g} on SimPO makes a model incoherent; use 3e-7 to 1e-6, or pass --force."
        )


def advice(recipe: Recipe) -> list[str]:
    """What a person should know before the run, a sentence each."""
    objective = recipe.objective.build()
    said = [
        f"SimPO with beta {objective.beta:g}, margin {objective.margin:g} nats per token (paper gamma {objective.paper_gamma:g})"
    ]
    if recipe.objective.preset and (preset := PRESETS[recipe.objective.preset]):
        rate = f"; its learning rate for full fine-tuning was {preset.learning_rate:g}" if preset.learning_rate else ""
        said.append(f"preset {recipe.objective.preset}: {preset.source}{rate}")
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
    if first["type"] == "extra_forbidden":
        return f"`{key}` is not a key of a recipe{_nearest(str(first['loc'][-1]), _keys_at(first['loc'][:-1]))}."
    if first["type"] == "missing":
        return f"`{key}` is missing; it decides the result and has no default."
    said = first["msg"].removeprefix("Value error, ")
    return f"`{key}`: {said[0].lower()}{said[1:]}."


def _is_union_tag(part: Any) -> bool:
    return part in ("float", "str", "int") or "constrained" in str(part)


def _keys_at(location: tuple[Any, ...]) -> list[str]:
    section: type[BaseModel] = Recipe
    for part in location:
        annotation = section.model_fields[part].annotation if part in section.model_fields else None
        options = [annotation, *getattr(annotation, "__args__", ())]
        section = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), Recipe)
    return list(section.model_fields)


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean `{close[0]}`?" if close else f"; known: {', '.join(known)}"


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
