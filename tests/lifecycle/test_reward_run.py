"""A reward model from recipe to export: trained, evaluated, and read by transformers' own classifier as it is here."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_model import listening, recipe_value, rows, write_rows
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from evenhand.errors import ModelError, RecipeError, UserError
from evenhand.evaluation.judge import GapJudge, Question
from evenhand.lifecycle.align import align
from evenhand.lifecycle.appraisal import Asked, appraise
from evenhand.lifecycle.bundle import Wanted, export_run
from evenhand.lifecycle.contestant import load_contestant
from evenhand.lifecycle.examination import Wanted as Looked
from evenhand.lifecycle.examination import examine
from evenhand.lifecycle.gate import run_gate
from evenhand.lifecycle.judging import open_judge
from evenhand.lifecycle.manifest import problems
from evenhand.lifecycle.policy import Policy
from evenhand.lifecycle.rehearsal import rehearse
from evenhand.lifecycle.summary import evaluation_words
from evenhand.training.recipe import check_recipe

SILENT = listening()[0]


def reward_recipe(folder: Path, model: Path, adapter: bool = True, **objective):
    made = rows(40)
    data = {
        "train": str(write_rows(folder / "train.jsonl", made[:24])),
        "validation": str(write_rows(folder / "held_out.jsonl", made[24:])),
    }
    value = recipe_value(model, data, steps=8, learning_rate=3e-3, validate_every=4)
    value["objective"] = {"name": "reward", **objective}
    if not adapter:
        value["model"]["adapter"] = None
    return check_recipe(value, "recipe.yaml")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("reward")
    return align(reward_recipe(folder, small_model, length_penalty=0.01, margin=0.1), folder / "run", SILENT)


def test_a_run_has_scores_and_no_replies(run: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    assert report["after"]["generation"] is None
    assert report["after"]["accuracy_by_sum"]["value"] is None
    assert report["after"]["pairwise_accuracy"]["n"] == 16
    assert not (run / "rows" / "replies-after.json").exists()
    assert not (run / "model" / "generation_config.json").exists()
    journal = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    assert journal[0]["loss"] > journal[-2]["loss"]


def test_the_same_seed_draws_the_same_head(tmp_path: Path, small_model: Path, run: Path) -> None:
    torch.manual_seed(12345)  # whatever the generator was at
    again = align(reward_recipe(tmp_path, small_model, length_penalty=0.01, margin=0.1), tmp_path / "run", SILENT)
    for name in ("adapter_model.safetensors",):
        assert (again / "model" / name).read_bytes() == (run / "model" / name).read_bytes()


def test_its_evaluation_reads_rewards(run: Path) -> None:
    found = examine(Asked(str(run), str(run.parent / "held_out.jsonl")), Looked(prompts=3), SILENT.say, SILENT.narrate)
    told = found.json()
    assert told["generation"] is None
    assert told["drift"] is None
    assert told["calibration"]["beta"] == 1.0
    rewards = found.evaluated.scored
    assert rewards.are_rewards
    implied = torch.sigmoid(torch.from_numpy(rewards.mean_gap_B))
    assert told["calibration"]["brier"]["value"] == pytest.approx(float(((1 - implied) ** 2).mean()))
    assert {"chosen_shorter", "chosen_longer"} <= set(told["slices"]["longer_side"])


@pytest.mark.parametrize("adapter", [True, False])
def test_an_export_is_transformers_classifier(tmp_path: Path, small_model: Path, run: Path, adapter: bool) -> None:
    made = run if adapter else align(reward_recipe(tmp_path, small_model, adapter=False), tmp_path / "run", SILENT)
    shipped = export_run(made, tmp_path / "out", Wanted(), SILENT.say)
    assert shipped.kinds == ("classifier",)
    assert not problems(tmp_path / "out")
    assert not (tmp_path / "out" / "generation_config.json").exists()
    assert shipped.proofs[0].same_prompt_tokens == shipped.proofs[0].rows
    held_out = made.parent / "held_out.jsonl"
    ours = appraise(Asked(str(made), str(held_out)), SILENT.say, SILENT.narrate).scored
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    asked = [json.loads(line) for line in held_out.read_text().splitlines()]
    for side, wanted in (("chosen", ours.chosen_mean_B), ("rejected", ours.rejected_mean_B)):
        talks = [
            [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row[side]}] for row in asked
        ]
        rows_ = tokenizer.apply_chat_template(talks, return_dict=True, return_tensors="pt", padding=True)
        with torch.no_grad():
            found = model(**rows_).logits[:, 0]
        assert found.tolist() == pytest.approx(wanted.tolist(), abs=1e-5)
    with pytest.raises(UserError, match="no GGUF form"):
        export_run(made, tmp_path / "gguf", Wanted(gguf=True), SILENT.say)


def test_a_reward_model_judges_replies(tmp_path: Path, small_model: Path, run: Path) -> None:
    judge = open_judge(str(run), "", tmp_path / "judge.jsonl", SILENT.say)
    assert isinstance(judge, GapJudge)
    scored = appraise(Asked(str(run), str(run.parent / "held_out.jsonl")), SILENT.say, SILENT.narrate)
    rulings = judge.rule([Question.of(pair) for pair in scored.held_out.texts], SILENT.step)
    gaps = {pair.id: gap for pair, gap in zip(scored.held_out.texts, scored.scored.mean_gap_B)}
    assert [ruling.a_first == "a" for ruling in rulings] == [gap > 0 for gap in gaps.values()]
    looked = Looked(prompts=4, judge=judge)
    told = examine(
        Asked(str(small_model), str(run.parent / "held_out.jsonl")), looked, SILENT.say, SILENT.narrate
    ).json()
    assert told["judged"]["agreement"]["value"] == pytest.approx(np.mean([gap > 0 for gap in gaps.values()]))
    assert told["judged"]["win_rate"] is None or told["judged"]["win_rate"]["n"] == 4
    assert any("agrees with people" in line for line in evaluation_words(told).splitlines())
    with pytest.raises(ModelError, match="answers and gives no rewards"):
        open_judge(str(small_model), "", tmp_path / "judge.jsonl", SILENT.say)


def test_padding_never_hides_the_end_of_an_answer(tmp_path: Path, small_model: Path) -> None:
    """SmolLM2's tokenizer pads with the token that ends a turn."""
    pads = tmp_path / "pads"
    pads.mkdir()
    for file in small_model.iterdir():
        (pads / file.name).write_bytes(file.read_bytes())
    tokenizer = AutoTokenizer.from_pretrained(small_model)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(pads)
    run = align(reward_recipe(tmp_path, pads), tmp_path / "run", SILENT)
    saved = AutoTokenizer.from_pretrained(run / "model")
    assert saved.pad_token != tokenizer.eos_token
    shipped = export_run(run, tmp_path / "out", Wanted(), SILENT.say)
    assert shipped.proofs[0].largest_difference < 1e-5


def test_what_makes_no_sense_is_refused(tmp_path: Path, small_model: Path, run: Path) -> None:
    export_run(run, tmp_path / "reward", Wanted(), SILENT.say)
    data = {"train": str(run.parent / "train.jsonl")}
    with pytest.raises(RecipeError, match="is a reward model, and simpo trains one that answers"):
        align(check_recipe(recipe_value(tmp_path / "reward", data), "recipe.yaml"), tmp_path / "run", SILENT)


def test_a_gate_asks_models_that_answer(run: Path) -> None:
    found = load_contestant(str(run), "float32", SILENT.say)
    with pytest.raises(ModelError, match="is a reward model and answers nothing"):
        run_gate(found, found, Policy(), None, SILENT.narrate)


def test_a_rehearsal_runs(tmp_path: Path, small_model: Path) -> None:
    assert rehearse(reward_recipe(tmp_path, small_model), SILENT).steps == 8
