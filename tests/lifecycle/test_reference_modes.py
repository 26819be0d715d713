"""A run that compares with its start: the three ways agree, the reference stays where it was, and others are refused."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_model import CHATML, listening, recipe_value, rows, small_llama, small_tokenizer, write_rows
from torch import Tensor

from evenhand.errors import DataError, ModelError, RecipeError
from evenhand.lifecycle.align import align
from evenhand.lifecycle.bench import Telling
from evenhand.training.journal import read_journal
from evenhand.training.recipe import Recipe, check_recipe

WAYS = ("adapter_off", "model", "cached")


def recipe_for(model: Path, data: dict[str, Any], adapter: bool = True, **objective: Any) -> Recipe:
    value = recipe_value(model, data, checkpoint_every=1)
    value["objective"] = {"name": "dpo", "beta": 0.1, **objective}
    value["evaluation"] = {"prompts": 0}
    if not adapter:
        value["model"]["adapter"] = None
    return check_recipe(value, "recipe.yaml")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder, made = tmp_path_factory.mktemp("data"), rows(26)
    return {
        "train": str(write_rows(folder / "train.jsonl", made[:18])),
        "validation": str(write_rows(folder / "validation.jsonl", made[18:])),
    }


def weights(folder: Path) -> dict[str, Tensor]:
    (file,) = (folder / "model").glob("*model.safetensors")
    return load_file(file)


def test_the_three_ways_train_the_same_model(tmp_path: Path, small_model: Path, data: dict[str, str]) -> None:
    tell, said = listening()
    found = {way: weights(align(recipe_for(small_model, data, reference=way), tmp_path / way, tell)) for way in WAYS}
    for way in WAYS[1:]:
        for name, weight in found["adapter_off"].items():
            torch.testing.assert_close(found[way][name], weight, rtol=1e-4, atol=1e-6)
    records = [read_journal(tmp_path / way / "journal.jsonl") for way in WAYS]
    assert all(own[0]["loss"] == pytest.approx(math.log(2), abs=1e-5) for own in records)  # policy and reference agree
    assert all(own[-1]["loss"] < math.log(2) for own in records)
    assert all(own[-1]["reward_accuracy"] > 0.5 for own in records)
    assert {"reward_accuracy", "pairwise_accuracy"} <= records[0][-1]["validation"].keys()
    assert sum("no second copy" in sentence for sentence in said) == 1
    assert any("MiB of weights beside the policy's" in sentence for sentence in said)
    assert any("26 cached scores" in sentence for sentence in said)


class KilledError(BaseException):
    pass


@pytest.mark.parametrize("way", WAYS)
def test_the_reference_does_not_move_when_a_run_resumes(
    tmp_path: Path, small_model: Path, data: dict[str, str], way: str
) -> None:
    recipe = recipe_for(small_model, data, reference=way)
    wanted = align(recipe, tmp_path / "whole", listening()[0])

    def kill(record: dict[str, Any], _: int) -> None:
        if record["step"] == 3:
            raise KilledError

    with pytest.raises(KilledError):
        align(recipe, tmp_path / "killed", Telling(lambda _: None, lambda *_: None, kill))
    if way == "cached":
        shutil.rmtree(tmp_path / "killed" / "reference")  # made again, of the model as it was at the start
    got = align(recipe, tmp_path / "killed", listening()[0])
    for name, weight in weights(wanted).items():
        assert torch.equal(weights(got)[name], weight), name
    losses = [[record["loss"] for record in read_journal(run / "journal.jsonl")] for run in (wanted, got)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("way", ["model", "cached"])
def test_full_fine_tuning_has_two_ways(tmp_path: Path, small_model: Path, data: dict[str, str], way: str) -> None:
    folder = align(recipe_for(small_model, data, adapter=False, reference=way), tmp_path / "run", listening()[0])
    records = read_journal(folder / "journal.jsonl")
    assert records[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert records[-1]["loss"] < records[0]["loss"]


def test_full_fine_tuning_cannot_switch_an_adapter_off(small_model: Path, data: dict[str, str]) -> None:
    with pytest.raises(RecipeError, match=r"no adapter to switch off; take `reference: model`.*or `reference: cached`"):
        recipe_for(small_model, data, adapter=False)


def test_a_cache_is_shared_and_refused_where_it_does_not_fit(
    tmp_path: Path, small_model: Path, data: dict[str, str]
) -> None:
    cache = tmp_path / "shared" / "scores.parquet"
    asked = {"reference": "cached", "reference_cache": str(cache)}
    align(recipe_for(small_model, data, **asked), tmp_path / "first", listening()[0])
    written = cache.stat().st_mtime_ns
    align(recipe_for(small_model, data, beta=0.3, **asked), tmp_path / "second", listening()[0])
    assert cache.stat().st_mtime_ns == written
    others = {"train": str(write_rows(tmp_path / "others.jsonl", rows(12, seed=5)))}
    with pytest.raises(DataError, match=r"holds reference scores of another data, tokens; name another cache"):
        align(recipe_for(small_model, others, **asked), tmp_path / "third", listening()[0])
    content = bytearray(cache.read_bytes())
    content[len(content) // 2] ^= 1
    cache.write_bytes(content)
    with pytest.raises(DataError, match=r"is not as it was written"):
        align(recipe_for(small_model, data, beta=0.4, **asked), tmp_path / "fourth", listening()[0])
    cache.with_suffix(".json").write_text("{}")
    with pytest.raises(DataError, match=r"scores.json is damaged"):
        align(recipe_for(small_model, data, beta=0.5, **asked), tmp_path / "fifth", listening()[0])


def test_a_reference_of_its_own_is_refused_where_it_reads_other_text(
    tmp_path: Path, small_model: Path, data: dict[str, str]
) -> None:
    template, tokenizer = tmp_path / "template", tmp_path / "tokenizer"
    for folder in (template, tokenizer):
        small_llama().save_pretrained(folder)
    one, other = small_tokenizer(), small_tokenizer()
    one.chat_template = CHATML.replace("assistant", "helper")
    one.save_pretrained(template)
    other.add_tokens(["parcel"])
    other.save_pretrained(tokenizer)
    for folder, what in ((template, "chat template"), (tokenizer, "tokenizer")):
        recipe = recipe_for(small_model, data, reference="model", reference_model=str(folder))
        with pytest.raises(ModelError, match=f"has another {what} than the policy"):
            align(recipe, tmp_path / f"run-{folder.name}", listening()[0])


def test_another_reference_model_is_what_is_compared_with(
    tmp_path: Path, small_model: Path, data: dict[str, str]
) -> None:
    other = tmp_path / "other"
    model = small_llama()
    with torch.no_grad():
        model.lm_head.weight.mul_(0.5)
    model.save_pretrained(other)
    small_tokenizer().save_pretrained(other)
    losses = []
    for way in ("model", "cached"):
        recipe = recipe_for(small_model, data, reference=way, reference_model=str(other))
        folder = align(recipe, tmp_path / way, listening()[0])
        losses.append([record["loss"] for record in read_journal(folder / "journal.jsonl")])
        assert "reference" in json.loads((folder / "identity.json").read_text())
    assert abs(losses[0][0] - math.log(2)) > 1e-3
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
