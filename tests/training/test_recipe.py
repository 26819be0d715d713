"""A recipe is read strictly: every mistake is named with its key, and nothing in it is without effect."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

import evenhand
from evenhand.errors import RecipeError
from evenhand.objectives.presets import PRESETS
from evenhand.training import recipe as recipe_module
from evenhand.training.recipe import Recipe, advice, check_recipe, read_recipe, recipe_schema, refuse_risk

SMALLEST = """
name: harbor
model: {source: builtin:smollm2-135m, adapter: {rank: 16, alpha: 32}, dtype: auto}
data: {source: pairs.jsonl, validation: 0.1, max_tokens: 2048}
objective: {name: simpo, beta: 2.0, margin: 0.5}
training: {batch_pairs: 32, epochs: 1, learning_rate: 1.0e-4, schedule: cosine, warmup: 0.1, seed: 0,
  validate_every: 50, checkpoint_every: 50}
"""


def read(tmp_path: Path, text: str = SMALLEST, *changes: str) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return read_recipe(path, changes)


def value_with(section: str, **changes: Any) -> dict[str, Any]:
    value: dict[str, Any] = yaml.safe_load(SMALLEST)
    value[section] = {k: v for k, v in (value[section] | changes).items() if v is not ...}
    return value


def test_the_smallest_recipe_is_accepted(tmp_path: Path) -> None:
    recipe = read(tmp_path)
    objective = recipe.objective.build()
    assert (recipe.name, objective.beta, objective.margin, objective.paper_gamma) == ("harbor", 2.0, 0.5, 1.0)
    assert recipe.training.learning_rate == 1e-4
    assert recipe.adapter is not None
    assert (recipe.adapter.rank, recipe.adapter.alpha, recipe.adapter.targets) == (16, 32.0, None)
    assert recipe.form.max_tokens == 2048
    assert recipe.evaluation.prompts == 32


def test_the_recipe_that_init_writes_is_accepted(tmp_path: Path) -> None:
    text = (Path(evenhand.__file__).parent / "cli" / "recipe.yaml").read_text()
    assert read(tmp_path, text).objective.build().margin == 0.5


def test_an_adapter_left_out_is_rank_16_and_null_is_full_fine_tuning(tmp_path: Path) -> None:
    left_out = check_recipe(value_with("model", adapter=...), "r").adapter
    assert left_out is not None
    assert left_out.rank == 16
    assert check_recipe(value_with("model", adapter=None), "r").adapter is None


@pytest.mark.parametrize(
    ("section", "changes", "said"),
    [
        ("training", {"learning_rte": 1e-4}, r"`training\.learning_rte`.*did you mean `learning_rate`\?"),
        ("model", {"adapter": {"rnk": 8}}, r"`model\.adapter\.rnk`.*did you mean `rank`\?"),
        ("data", {"zzzzzz": 1}, r"`data\.zzzzzz` is not a key of a recipe; known: source, train"),
        ("objective", {"name": "dop"}, r"`objective\.name` is dop; did you mean `dpo`\?"),
        ("training", {"batch_pairs": ...}, r"`training\.batch_pairs` is missing; it decides the result"),
        ("training", {"seed": ...}, r"`training\.seed` is missing"),
        ("training", {"epochs": ...}, r"`training`: give `epochs` or `steps`"),
        ("training", {"learning_rate": "fast"}, r"`training\.learning_rate`: input should be a valid number"),
        ("training", {"learning_rate": 0}, r"`training\.learning_rate`: input should be greater than 0"),
        ("training", {"learning_rate": float("inf")}, r"`training\.learning_rate`: input should be a finite number"),
        ("training", {"seed": -1}, r"`training\.seed`: input should be greater than or equal to 0"),
        ("objective", {"margin": float("nan")}, r"`objective\.margin`: input should be a finite number"),
        ("objective", {"beta": ...}, r"`beta` is missing; published ones are 2 to 10"),
        ("objective", {"margin": ...}, r"give `margin` \(nats per token\) or `paper_gamma`"),
        ("objective", {"paper_gamma": 0.5}, r"`paper_gamma` is 0.5 and the other keys make it 1; leave it out"),
        (
            "objective",
            {"preset": "simpo-lama3-base"},
            r"'simpo-lama3-base' is unknown; did you mean `simpo-llama3-base`",
        ),
        ("objective", {"preset": "simpo-gemma2"}, r"`beta` is 2 and the other keys make it 10"),
        ("data", {"train": "t.jsonl"}, r"give either `source` .* or `train`"),
        ("data", {"source": ...}, r"give either `source` .* or `train`"),
        ("data", {"validation": "v.jsonl"}, r"with `source`, `validation` is a share"),
        ("data", {"validation": 1.5}, r"a share lies between 0 and 1"),
        ("data", {"source": ..., "train": "t.jsonl"}, r"with `train`, `validation` is a file"),
        ("data", {"compat": "authors"}, r"`max_prompt_tokens` is needed"),
        ("data", {"max_prompt_tokens": 9}, r"`max_prompt_tokens` is read only with `compat: authors`"),
        ("training", {"report_to": ["tensorbord"]}, r"`training\.report_to\.0`: input should be 'tensorboard'"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_key(section: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=r"recipe\.yaml: ") as caught:
        check_recipe(value_with(section, **changes), "recipe.yaml")
    assert re.search(said, str(caught.value))
    assert "\n" not in str(caught.value)


def test_a_bare_gamma_is_refused_with_both_readings() -> None:
    with pytest.raises(RecipeError) as caught:
        check_recipe(value_with("objective", beta=2.5, margin=..., gamma=1.375), "recipe.yaml")
    said = str(caught.value)
    assert "write `margin: 1.375`" in said
    assert "`paper_gamma: 1.375`, which is a margin of 0.55" in said
    with pytest.raises(RecipeError, match="a margin of gamma / beta"):
        check_recipe(value_with("objective", beta=..., margin=..., gamma=1.0), "recipe.yaml")


def test_the_papers_gamma_becomes_a_margin() -> None:
    recipe = check_recipe(value_with("objective", beta=2.5, margin=..., paper_gamma=1.375), "r")
    assert recipe.objective.build().margin == pytest.approx(0.55, rel=1e-12)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_sets_beta_and_margin_and_is_cited(name: str) -> None:
    recipe = check_recipe(value_with("objective", beta=..., margin=..., preset=name), "r")
    objective = recipe.objective.build()
    assert (objective.beta, objective.margin) == (PRESETS[name].beta, PRESETS[name].margin)
    said = advice(recipe)
    assert f"paper gamma {objective.beta * objective.margin:g}" in said[0]
    assert PRESETS[name].source in said[1]


def test_a_margin_beyond_all_published_ones_is_remarked_on() -> None:
    assert not any(
        "more than anyone" in line for line in advice(check_recipe(value_with("objective", margin=2.0), "r"))
    )
    assert "more than anyone" in advice(check_recipe(value_with("objective", margin=5.0), "r"))[-1]


def test_a_number_without_a_point_is_a_number(tmp_path: Path) -> None:
    text = SMALLEST.replace("1.0e-4", "1e-4")
    assert yaml.safe_load(text)["training"]["learning_rate"] == "1e-4"  # what YAML 1.1 makes of it
    assert read(tmp_path, text).training.learning_rate == 1e-4


def test_a_change_on_the_command_line_is_checked_like_the_file(tmp_path: Path) -> None:
    changed = read(tmp_path, SMALLEST, "training.learning_rate=5e-5", "model.adapter=null", "evaluation.prompts=0")
    assert changed.training.learning_rate == 5e-5
    assert changed.adapter is None
    assert changed.evaluation.prompts == 0
    for change, said in [
        ("training.learning_rate", "is not key=value"),
        ("training.lr=1", r"`training\.lr` is not a key of a recipe"),
        ("name.first=x", "`name` is not a section"),
        ("model.adapter={rank", "the value is not YAML"),
    ]:
        with pytest.raises(RecipeError, match=said):
            read(tmp_path, SMALLEST, change)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "name: [", "name: \x00"])
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError, match=r"recipe\.yaml (is not YAML|does not hold a recipe)"):
        read(tmp_path, text)


def test_a_ruinous_learning_rate_needs_insistence() -> None:
    risky = value_with("model", adapter=None)
    risky["training"]["learning_rate"] = 1e-5
    with pytest.raises(RecipeError, match=r"1e-05 with full fine-tuning.*--force"):
        refuse_risk(check_recipe(risky, "r"))
    risky["training"]["learning_rate"] = 9e-6
    refuse_risk(check_recipe(risky, "r"))
    refuse_risk(check_recipe(value_with("training", learning_rate=1e-3), "r"))  # LoRA


def test_the_resolved_recipe_is_a_recipe_that_says_the_same() -> None:
    for changes in (
        {},
        {"beta": 2.5, "margin": ..., "paper_gamma": 1.375},
        {"beta": ..., "margin": ..., "preset": "simpo-gemma2"},
    ):
        recipe = check_recipe(value_with("objective", **changes), "r")
        resolved = json.loads(json.dumps(recipe.resolved()))
        again = check_recipe(resolved, "resolved")
        assert again.objective.build() == recipe.objective.build()
        assert again.resolved() == resolved
        objective = recipe.objective.build()
        assert resolved["objective"]["margin"] == objective.margin
        assert resolved["objective"]["paper_gamma"] == objective.paper_gamma


def sections(model: type[BaseModel]) -> list[type[BaseModel]]:
    inner = []
    for field in model.model_fields.values():
        options = [field.annotation, *getattr(field.annotation, "__args__", ())]
        inner += [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
    return [model, *(deeper for section in inner for deeper in sections(section))]


def readers(path: Path) -> str:
    """A file's code without its validators: to be checked is not to be used."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            node.body = [part for part in node.body if "model_validator" not in ast.dump(part)]
    return ast.unparse(tree)


def test_every_knob_has_a_reader() -> None:
    text = "\n".join(readers(path) for path in Path(evenhand.__file__).parent.rglob("*.py"))
    knobs = [(section, name) for section in sections(Recipe) for name in section.model_fields]
    assert len(knobs) > 45
    unread = [f"{section.__name__}.{name}" for section, name in knobs if not re.search(rf"\.{name}\b", text)]
    assert not unread


def test_the_schema_describes_every_key() -> None:
    schema = json.loads(recipe_schema())
    assert schema["required"] == ["name", "model", "data", "objective", "training"]
    for section in sections(Recipe)[1:]:
        part = schema["$defs"][section.__name__]
        assert part["additionalProperties"] is False
        assert set(part["properties"]) == set(section.model_fields)
        assert all("description" in described for described in part["properties"].values()), section
    assert recipe_module.RISKY_LEARNING_RATE == 1e-5
