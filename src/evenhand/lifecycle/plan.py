"""What `evenhand run` is asked to do: a recipe for SimPO, and a `stages` section that says what happens around it."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, ValidationError

from evenhand.data.bench import CurationRules
from evenhand.data.rulebook import rules_of
from evenhand.errors import RecipeError
from evenhand.lifecycle.sweep.space import SweepSection
from evenhand.training.recipe import Recipe, check_recipe, recipe_value
from evenhand.training.section import Section

ReferenceMode = Literal["adapter_off", "model", "cached"]


class SFTStage(Section):
    """Supervised fine-tuning on the chosen answers of the training side, before alignment."""

    learning_rate: PositiveFloat = Field(description="peak learning rate")
    epochs: PositiveInt | None = Field(
        None, description="passes over the chosen answers; left out: the recipe's length"
    )
    steps: PositiveInt | None = Field(None, description="optimizer steps; overrides epochs")


class DPOStage(Section):
    """DPO on the same pairs with the recipe's own training settings, to compare with; a sweep tunes SimPO alone."""

    beta: PositiveFloat = Field(description="published ones are 0.01 to 0.5")
    learning_rate: PositiveFloat | None = Field(None, description="left out: the recipe's")
    references: tuple[ReferenceMode, ...] = Field(
        ("adapter_off",),
        min_length=1,
        description="the first one's model is compared; the others are trained for their memory and must agree",
    )


class StagesSection(Section):
    """What happens beside audit, SimPO, evaluate and compare; sft, sweep and dpo that are left out do not."""

    curate: dict[str, Any] | None = Field(
        None,
        description="`rules` in their order, and `families`, as in a rules file; left out: every rule without a limit",
    )
    sft: SFTStage | None = None
    sweep: SweepSection | None = Field(
        None, description="what `evenhand sweep` tries, before SimPO is trained; {}: its own stages"
    )
    dpo: DPOStage | None = None
    seed: int = Field(0, ge=0, description="seed of the split by prompt family")

    @property
    def rules(self) -> CurationRules:
        """The curation's rules; raises DataError for those that are none."""
        return CurationRules() if self.curate is None else rules_of(self.curate, "stages.curate")


class Plan(Section):
    """A recipe and its stages."""

    recipe: Recipe
    stages: StagesSection


def read_plan(path: Path) -> Plan:
    """The plan in a YAML file: a recipe with a `stages` section.

    Raises RecipeError for what is no recipe, for data without a share to hold out, and for another method than SimPO, and
    DataError for rules of curation that are none.
    """
    value = recipe_value(path)
    stages = _stages(value.pop("stages", {}), path)
    recipe = check_recipe(value, str(path))
    if recipe.data.source is None or not isinstance(recipe.data.validation, float):
        raise RecipeError(
            f"{path}: `evenhand run` curates and splits by itself; give `data.source` with judgments or pairs and "
            "`data.validation` as a share, such as 0.2."
        )
    if recipe.objective.name != "simpo":
        raise RecipeError(
            f"{path}: `objective.name` is {recipe.objective.name}; `evenhand run` trains SimPO and compares it with DPO "
            "(`stages: {dpo: {beta: 0.1}}`); for another method alone take `evenhand train`."
        )
    if stages.rules.max_tokens is not None:
        raise RecipeError(
            f"{path}: `stages.curate` bounds tokens, which needs a tokenizer; `evenhand curate --tokenizer` does it, and here "
            "`data.max_tokens` refuses what is too long."
        )
    return Plan(recipe=recipe, stages=stages)


def _stages(value: Any, path: Path) -> StagesSection:
    try:
        return StagesSection.model_validate(value or {})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(["stages", *(str(part) for part in first["loc"])])
        raise RecipeError(
            f"{path}: `{key}`: {first['msg'].lower()}; known stages are curate, sft, sweep and dpo."
        ) from error


def stage_recipe(plan: Plan, name: str, model: str, changes: dict[str, Any]) -> dict[str, Any]:
    """The recipe of one training stage: the plan's on curated data, from `model`, with `changes` by section."""
    value: dict[str, Any] = plan.recipe.model_dump(mode="json")
    value["name"] = name
    value["model"]["source"] = model
    for key in ("validation", "train", "kind"):
        value["data"][key] = None
    for section, own in changes.items():
        value[section] = own if section == "objective" else value[section] | own
    return value
