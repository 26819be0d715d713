"""A whole run on a small model: what it leaves, that it is loadable and true, and that it can be stopped anywhere."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from small_model import listening, recipe_value, rows, write_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from evenhand.errors import DataError, GuardError, RecipeError
from evenhand.evaluation.verdict import verdict
from evenhand.figure import Figure, figure
from evenhand.lifecycle.align import align
from evenhand.lifecycle.bench import Telling
from evenhand.training.journal import read_journal
from evenhand.training.recipe import Recipe, check_recipe


@pytest.fixture
def split(tmp_path: Path) -> dict[str, str]:
    """Train and validation files."""
    made = rows(26)
    return {
        "train": str(write_rows(tmp_path / "train.jsonl", made[:18])),
        "validation": str(write_rows(tmp_path / "validation.jsonl", made[18:])),
    }


def recipe_for(model: Path, data: dict[str, Any], adapter: bool = True, **training: Any) -> Recipe:
    value = recipe_value(model, data, **training)
    if not adapter:
        value["model"]["adapter"] = None
    return check_recipe(value, "recipe.yaml")


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_run_is_told_epoch_by_epoch(tmp_path: Path, small_model: Path, split: dict[str, str]) -> None:
    recipe = recipe_for(small_model, split, steps=None, epochs=2)
    folder = align(recipe, tmp_path / "run", listening()[0])
    report = json.loads((folder / "report.json").read_text())
    start, one, two = report["epochs"]
    assert [(own["epoch"], own["step"]) for own in (start, one, two)] == [(0, 0), (1, 3), (2, 6)]
    for own, side in ((start, "before"), (two, "after")):  # the same prompts are asked at each validation
        for name in ("median_tokens", "median_characters", "repetition", "ended"):
            assert own[name] == report[side]["generation"][name]
        assert own["pairwise_accuracy"] == report[side]["pairwise_accuracy"]
    validated = [record for record in read_journal(folder / "journal.jsonl") if "validation" in record]
    assert [own["loss"] for own in (one, two)] == [record["validation"]["loss"] for record in validated]
    assert "Epoch by epoch" in (folder / "report.html").read_text()


def test_a_run_leaves_what_is_promised(tmp_path: Path, small_model: Path, split: dict[str, str]) -> None:
    tell, said = listening()
    recipe = recipe_for(small_model, split, validate_every=2)
    folder = align(recipe, tmp_path / "runs" / "small", tell)
    assert {path.name for path in folder.iterdir()} == {
        *("recipe.json", "identity.json", "journal.jsonl", "refused.jsonl", "checkpoints", "rows", "model", "tokens"),
        *("report.html", "report.json", "done.json"),
    }
    assert json.loads((folder / "recipe.json").read_text()) == recipe.resolved()
    records = read_journal(folder / "journal.jsonl")
    assert [record["step"] for record in records if "validation" in record] == [2, 4, 5]
    assert {path.name for path in (folder / "rows").iterdir()} == {
        *(f"step-{step:06d}.parquet" for step in (0, 2, 4, 5)),
        *("replies-before.json", "replies-after.json"),
    }
    report = json.loads((folder / "report.json").read_text())
    assert {"before", "after", "difference", "differences", "data", "recipe", "verdict", "machine"} <= report.keys()
    assert report["recipe"] == recipe.resolved()
    assert report["data"]["rows_in"] == report["data"]["rows_used"] == 26
    assert report["data"]["refused"] == {}
    assert set(report["difference"]) == {"value", "n", "low", "high"}
    for side in ("before", "after"):
        assert {"pairwise_accuracy", "length_balanced_accuracy", "accuracy_by_sum", "slices"} <= report[side].keys()
        assert {"median_tokens", "median_characters", "repetition", "ended"} <= report[side]["generation"].keys()
    assert any("was loaded again and gives the same log-probabilities" in sentence for sentence in said)


def test_the_report_says_what_its_rows_say(tmp_path: Path, small_model: Path, split: dict[str, str]) -> None:
    folder = align(recipe_for(small_model, split, validate_every=1), tmp_path / "run", listening()[0])
    report = json.loads((folder / "report.json").read_text())
    records = read_journal(folder / "journal.jsonl")
    best = min(records, key=lambda record: record["validation"]["loss"])["step"]
    accuracy = {}
    for side, step in (("before", 0), ("after", best)):
        table = pq.read_table(folder / "rows" / f"step-{step:06d}.parquet").to_pylist()
        assert len(table) == report[side]["pairwise_accuracy"]["n"] == 8
        for row in table:
            assert row["chosen_mean"] == pytest.approx(row["chosen_sum"] / row["chosen_tokens"], rel=1e-12)
        accuracy[side] = sum(row["chosen_mean"] > row["rejected_mean"] for row in table) / 8
        assert report[side]["pairwise_accuracy"]["value"] == pytest.approx(accuracy[side])
        by_sum = sum(row["chosen_sum"] > row["rejected_sum"] for row in table) / 8
        assert report[side]["accuracy_by_sum"]["value"] == pytest.approx(by_sum)
        replies = json.loads((folder / "rows" / f"replies-{side}.json").read_text())["replies"]
        ended = sum(reply["ended"] for reply in replies) / len(replies)
        assert report[side]["generation"]["ended"]["value"] == pytest.approx(ended)
    assert report["difference"]["value"] == pytest.approx(accuracy["after"] - accuracy["before"])
    differences: dict[str, Figure] = {name: figure(value) for name, value in report["differences"].items()}
    both = (figure(report[side]["pairwise_accuracy"]) for side in ("before", "after"))
    assert verdict(*both, differences).sentence == report["verdict"]["sentence"]
    assert report["machine"]["step kept"] == f"{best} of 5, the lowest loss of 5 validations on these same pairs"


def test_a_second_call_finds_the_run_done_and_changes_nothing(
    tmp_path: Path, small_model: Path, split: dict[str, str]
) -> None:
    recipe, folder = recipe_for(small_model, split), tmp_path / "run"
    align(recipe, folder, listening()[0])
    before = tree(folder)
    tell, said = listening()
    align(recipe, folder, tell)
    assert said == [f"{folder} is done already; nothing to do."]
    assert tree(folder) == before


class KilledError(BaseException):
    pass


def killed_at(words: str) -> Telling:
    """A Telling that stops the process's work where a sentence or stage with these words is told."""

    def stop(what: str) -> None:
        if words in what:
            raise KilledError

    return Telling(stop, lambda what, *_: stop(what), lambda record, _: stop(f"step {record['step']}."))


PLACES = [
    "scoring before",
    "answering before",
    "step 1.",
    "step 3.",
    "validating after step 4",
    "was loaded again",
    "answering after",
]


@pytest.mark.parametrize("place", PLACES)
def test_a_run_stopped_anywhere_ends_as_if_it_had_not_been(
    tmp_path: Path, small_model: Path, split: dict[str, str], place: str
) -> None:
    recipe = recipe_for(small_model, split, validate_every=2, checkpoint_every=2)
    whole = align(recipe, tmp_path / "whole", listening()[0])
    folder = tmp_path / "stopped"
    with pytest.raises(KilledError):
        align(recipe, folder, killed_at(place))
    assert not (folder / "done.json").exists()
    align(recipe, folder, listening()[0])
    one, other = tree(folder), tree(whole)
    assert one.keys() == other.keys()
    # Seconds and memory are the machine's; everything else must be the same.
    timed = {"journal.jsonl", "report.html"} | {name for name in one if name.endswith(("state.json", "manifest.json"))}
    different = {name for name in one if one[name] != other[name]}
    assert different <= timed


def test_a_kill_between_the_first_two_files_is_survived(
    tmp_path: Path, small_model: Path, split: dict[str, str]
) -> None:
    recipe, folder = recipe_for(small_model, split), tmp_path / "run"
    whole = align(recipe, tmp_path / "whole", listening()[0])
    folder.mkdir()
    (folder / ".identity.json.staging-4711").write_text("{")
    (folder / "identity.json").write_bytes((whole / "identity.json").read_bytes())
    align(recipe, folder, listening()[0])
    assert (folder / "report.json").read_bytes() == (whole / "report.json").read_bytes()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"training": {"learning_rate": 2e-3}}, r"training.learning_rate \(0.001, now 0.002\)"),
        ({"training": {"steps": 6}}, r"training.steps \(5, now 6\)"),
        ({"objective": {"beta": 2.5}}, r"objective.beta \(2.0, now 2.5\)"),
        ({"data": {"max_tokens": 99}}, r"data.max_tokens \(2048, now 99\)"),
        ({"evaluation": {"prompts": 1}}, r"evaluation.prompts \(2, now 1\)"),
        ({"model": {"adapter": {"rank": 2, "alpha": 8}}}, r"model.adapter.rank \(4, now 2\)"),
    ],
)
def test_a_changed_recipe_is_refused_by_what_changed(
    tmp_path: Path, small_model: Path, split: dict[str, str], changes: dict[str, dict[str, Any]], named: str
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KilledError):
        align(recipe_for(small_model, split), folder, killed_at("step 1."))
    before = tree(folder)
    value = recipe_value(small_model, split)
    for section, change in changes.items():
        value[section] = value[section] | change
    with pytest.raises(RecipeError, match=f"holds a run with another {named}; choose another --out"):
        align(check_recipe(value, "r"), folder, listening()[0])
    assert tree(folder) == before


def test_changed_data_and_a_changed_model_are_refused(tmp_path: Path, small_model: Path, split: dict[str, str]) -> None:
    folder = tmp_path / "run"
    align(recipe_for(small_model, split), folder, listening()[0])
    write_rows(Path(split["train"]), rows(30, seed=5)[:18])
    with pytest.raises(RecipeError, match="another data; choose another --out, allow it with --allow-change data, or"):
        align(recipe_for(small_model, split), folder, listening()[0])


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path, small_model: Path, split: dict[str, str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear")
    with pytest.raises(RecipeError, match="holds other files; choose another --out"):
        align(recipe_for(small_model, split), tmp_path / "mine", listening()[0])
    with pytest.raises(RecipeError, match=r"thesis.txt is a file; choose another --out"):
        align(recipe_for(small_model, split), tmp_path / "mine" / "thesis.txt", listening()[0])
    assert tree(tmp_path / "mine") == {"thesis.txt": b"dear"}


@pytest.mark.parametrize("adapter", [True, False], ids=["lora", "full"])
def test_the_model_is_loadable_by_its_neighbours(
    tmp_path: Path, small_model: Path, split: dict[str, str], adapter: bool
) -> None:
    recipe = recipe_for(small_model, {"train": split["train"]}, adapter)
    tell, said = listening()
    folder = align(recipe, tmp_path / "run", tell)
    assert "add `validation` to see whether it got better" in said[-1]
    assert not (folder / "report.json").exists()
    assert (folder / "done.json").exists()
    if adapter:
        loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(small_model), folder / "model")
        state = {n: w for n, w in loaded.named_parameters() if "lora_" in n}
    else:
        loaded = AutoModelForCausalLM.from_pretrained(folder / "model")
        state = dict(loaded.named_parameters())
    kept = load_file(folder / "checkpoints" / "step-000005" / "state.safetensors")
    masters = {name.removeprefix("master.model."): w for name, w in kept.items() if name.startswith("master.")}
    assert masters.keys() == state.keys()
    assert all(torch.equal(state[name], masters[name]) for name in state)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "parcel"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    reply = loaded.eval().generate(**ids, max_new_tokens=4, do_sample=False)
    assert ids["input_ids"].shape[1] < reply.shape[1] <= ids["input_ids"].shape[1] + 4
    generation = json.loads((folder / "model" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_a_leak_between_the_files_is_refused(tmp_path: Path, small_model: Path) -> None:
    made = rows(12)
    data = {
        "train": str(write_rows(tmp_path / "t.jsonl", made[:9])),
        "validation": str(write_rows(tmp_path / "v.jsonl", made[7:])),
    }
    with pytest.raises(DataError, match=r"v\.jsonl: 2 of 5 held-out prompts are also trained on, the first is row 0"):
        align(recipe_for(small_model, data), tmp_path / "run", listening()[0])
    assert not (tmp_path / "run").exists()


def test_a_learning_rate_that_breaks_the_model_ends_in_a_guard(
    tmp_path: Path, small_model: Path, split: dict[str, str]
) -> None:
    recipe = recipe_for(small_model, split, learning_rate=1e38, warmup=0.0, validate_every=1)
    with pytest.raises(GuardError, match=r"not finite|is nan"):
        align(recipe, tmp_path / "run", listening()[0])
    assert not (tmp_path / "run" / "model").exists()
