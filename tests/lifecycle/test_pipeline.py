"""From judgments to a compared model on a tiny model: stages done once, and what may not change refused."""

import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from small_model import learnable, recipe_value, write_recipe, write_rows

from evenhand.errors import DataError, RecipeError
from evenhand.lifecycle.compared import compare_entrants
from evenhand.lifecycle.entrant import entrants
from evenhand.lifecycle.pipeline import Pipeline, run_pipeline
from evenhand.lifecycle.plan import read_plan
from evenhand.lifecycle.stages import Stage, Stages


def quiet(*_: Any) -> None:
    return None


@pytest.fixture(scope="module")
def done(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Pipeline, dict[str, Any], list[str]]:
    folder = tmp_path_factory.mktemp("pipeline")
    data = write_rows(folder / "pairs.jsonl", learnable(40))
    value = recipe_value(small_model, {"source": str(data), "validation": 0.3}, steps=2)
    value["stages"] = {"sft": {"learning_rate": 1e-3, "steps": 1}, "dpo": {"beta": 0.1}}
    value["stages"]["curate"] = {"rules": ["tie", "exact_duplicate", "contradiction"], "families": 0.9}
    value["stages"]["sweep"] = {"learning_rates": [1e-2, 1e-5], "betas": [2.0], "margins": [0.5], "length_drift": None}
    plan = read_plan(write_recipe(folder / "plan.yaml", value))
    source = str(Path(__file__).parents[2] / "src")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = source  # the stages' own processes take the same code
    try:
        said: list[str] = []
        pipeline = Pipeline(plan, folder / "out", said.append, quiet)
        return pipeline, run_pipeline(pipeline), said
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


def test_every_stage_is_done_and_compared_on_the_same_pairs(done):
    pipeline, found, _ = done
    assert (found["baseline"], found["candidate"]) == ("dpo", "simpo")
    assert set(found["readings"]) == {"mean_log_probability", "own_reward"}
    assert set(found["costs"]) == {"simpo", "dpo"}
    assert all(cost["memory_peak_bytes"] > 0 for cost in found["costs"].values())
    assert "Is simpo better than dpo?" in Path(found["page"]).read_text()
    start = json.loads((pipeline.run_folder("simpo") / "recipe.json").read_text())["model"]["source"]
    assert start == str(pipeline.folder / "start")  # both were aligned from the fine-tuned model
    evaluated = {
        name: json.loads((pipeline.folder / "evaluation" / f"{name}.json").read_text()) for name in ("dpo", "simpo")
    }
    assert found["drift"] == {"baseline": evaluated["dpo"]["drift"], "candidate": evaluated["simpo"]["drift"]}
    assert found["drift"]["candidate"]["on_new_replies"]["n"] > 0
    assert "Drift, own replies" in Path(found["page"]).read_text()


def test_the_recipes_rules_curate(done):
    rules = json.loads((done[0].data / "dataset.json").read_text())["rules"]
    assert (rules["order"], rules["families"]) == (["tie", "exact_duplicate", "contradiction"], 0.9)


def test_simpo_is_trained_with_what_the_sweep_found(done):
    pipeline, found, _ = done
    recipe = json.loads((pipeline.run_folder("simpo") / "recipe.json").read_text())
    best = json.loads((pipeline.folder / "sweep" / "sweep.json").read_text())["best"]
    assert (recipe["training"]["learning_rate"], recipe["objective"]["beta"]) == (
        best["params"]["training.learning_rate"],
        2.0,
    )
    assert best["params"]["training.learning_rate"] in (1e-2, 1e-5)
    assert json.loads((pipeline.run_folder("dpo") / "recipe.json").read_text())["training"]["learning_rate"] == 1e-3
    assert found["stages"]["sweep"]["facts"]["trials"] == 2


def test_pairs_that_simpo_was_chosen_on_give_no_verdict(done):
    _, found, _ = done
    assert found["verdict"] == "undecided"
    assert "the settings of simpo are the best of 2 that were tried on these same pairs" in found["withheld"]
    assert found["sentence"].startswith("There is no verdict on simpo against dpo: ")
    page = Path(found["page"]).read_text()
    assert "<h1>No verdict</h1>" in page
    assert "only other pairs can tell" in page


def test_a_second_run_does_nothing_again_and_a_changed_recipe_only_what_follows(done):
    pipeline, found, said = done
    said.clear()
    again = run_pipeline(pipeline)
    assert [line.rpartition(": ")[2] for line in said] == ["nothing has changed, skipped"] * len(said)
    assert again["difference"] == found["difference"]


def test_a_changed_template_or_tampered_data_is_refused(done):
    pipeline, _, _ = done
    with pytest.raises(RecipeError, match=r"the template of the recipe is 0000.*start in another folder"):
        Stages(pipeline.folder, {"template": "0" * 64}, quiet)
    file = pipeline.data / "validation.parquet"
    kept = file.read_bytes()
    try:
        file.write_bytes(kept + b"x")
        with pytest.raises(DataError, match="is not what was curated"):
            run_pipeline(pipeline)
    finally:
        file.write_bytes(kept)


def test_runs_are_compared_by_kept_scores_and_other_rows_are_refused(done, tmp_path):
    pipeline, _, _ = done
    runs = [str(pipeline.run_folder(name)) for name in ("dpo", "simpo")]
    kept = compare_entrants(entrants(runs, None, quiet, quiet)).value
    now = compare_entrants(entrants(runs, str(pipeline.data), quiet, quiet)).value
    for name, reading in kept["readings"].items():
        assert now["readings"][name]["difference"] == reading["difference"], name
    rows_of = sorted((pipeline.run_folder("simpo") / "rows").glob("step-*.parquet"))
    pq.write_table(pq.read_table(rows_of[-1]).slice(1), tmp_path / "short.parquet")
    with pytest.raises(DataError, match=r"same pairs.*1 on one side only.*evenhand score"):
        compare_entrants(entrants([str(tmp_path / "short.parquet"), str(rows_of[-1])], None, quiet, quiet))


def test_a_stage_is_done_again_when_what_decides_it_changes_or_its_file_is_gone(tmp_path):
    times: list[str] = []
    made = tmp_path / "made"

    def stage(value: int) -> Stage:
        def work() -> dict[str, Any]:
            times.append(str(value))
            made.write_text("x")
            return {"value": value}

        return Stage("one", {"value": value}, (made,), work)

    stages = Stages(tmp_path / "s", {}, quiet)
    stages.perform(stage(1))
    assert Stages(tmp_path / "s", {}, quiet).perform(stage(1)) == {"value": 1}
    stages.perform(stage(2))
    made.unlink()
    stages.perform(stage(2))
    assert times == ["1", "2", "2"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"train": "x.jsonl"}}, "curates and splits by itself"),
        ({"objective": {"name": "sft"}}, "trains SimPO and compares it with DPO"),
        ({"stages": {"dpo": {}}}, "stages.dpo.beta"),
        ({"stages": {"swep": {}}}, "known stages are curate, sft, sweep and dpo"),
        ({"stages": {"curate": {"rules": ["ties"]}}}, "stages.curate: `ties` is not known; did you mean `tie`"),
        (
            {"stages": {"curate": {"rules": ["tie", {"too_long": {"tokens": 9}}, "contradiction"]}}},
            "evenhand curate --tokenizer",
        ),
    ],
)
def test_a_plan_that_cannot_be_run_says_why(tmp_path, small_model, change, message):
    value = recipe_value(small_model, {"source": "x.jsonl", "validation": 0.3}) | change
    with pytest.raises((RecipeError, DataError), match=message):
        read_plan(write_recipe(tmp_path / "plan.yaml", value))
