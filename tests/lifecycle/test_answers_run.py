"""Supervised fine-tuning and KTO from a recipe, on pairs and on answers without a rival."""

import json
from pathlib import Path
from typing import Any

import pytest
from small_model import listening, recipe_value, rows, write_rows

from evenhand.errors import DataError, RecipeError
from evenhand.lifecycle.align import align
from evenhand.lifecycle.rehearsal import rehearse
from evenhand.training.journal import read_journal
from evenhand.training.recipe import Recipe, advice, check_recipe

OBJECTIVES: dict[str, dict[str, Any]] = {"sft": {"name": "sft"}, "kto": {"name": "kto", "beta": 0.3}}


def recipe_for(model: Path, objective: dict[str, Any], data: dict[str, Any]) -> Recipe:
    steps = (
        40 if objective.get("name") == "kto" else 5
    )  # a step of KTO moves little: its loss is flat where nothing is known
    value = recipe_value(model, data, validate_every=2, steps=steps)
    value["objective"] = objective
    return check_recipe(value, "recipe.yaml")


def answers(folder: Path, labelled: bool) -> dict[str, Any]:
    made = [
        {
            "messages": [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["chosen" if i % 2 else "rejected"]},
            ]
        }
        | ({"label": bool(i % 2)} if labelled else {})
        for i, row in enumerate(rows(26))
    ]
    return {
        "train": str(write_rows(folder / "train.jsonl", made[:18])),
        "validation": str(write_rows(folder / "validation.jsonl", made[18:])),
    }


@pytest.mark.parametrize("name", OBJECTIVES)
def test_pairs_serve_and_are_what_the_report_is_about(tmp_path: Path, small_model: Path, name: str) -> None:
    source = write_rows(tmp_path / "pairs.jsonl", rows(26))
    recipe = recipe_for(small_model, OBJECTIVES[name], {"source": str(source), "validation": 0.3})
    folder = align(recipe, tmp_path / "run", listening()[0])
    report = json.loads((folder / "report.json").read_text())
    assert report["difference"]["n"] > 0
    records = read_journal(folder / "journal.jsonl")
    assert records[-1]["loss"] < records[0]["loss"]
    assert "accuracy" not in records[0]
    assert records[-1]["validation"]["loss"] < records[1]["validation"]["loss"]
    assert ("reward_accuracy" in records[-1]["validation"]) == (name == "kto")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_answers_without_a_rival(tmp_path: Path, small_model: Path, name: str) -> None:
    recipe = recipe_for(small_model, OBJECTIVES[name], answers(tmp_path, name == "kto"))
    tell, said = listening()
    folder = align(recipe, tmp_path / "run", tell)
    records = read_journal(folder / "journal.jsonl")
    assert records[-1]["validation"]["loss"] < records[1]["validation"]["loss"]
    assert "generation" in records[-1]["validation"]
    assert ("rejected_mean" in records[0]) == (name == "kto")
    form = {"sft": "demonstrations (messages)", "kto": "votes (messages_label): 9 liked, 9 not"}[name]
    assert any(f"read 18 rows as {form}" in sentence for sentence in said)
    assert not (folder / "report.json").exists()
    assert (folder / "model" / "adapter_model.safetensors").exists()
    assert rehearse(recipe, tell).train_pairs == 18


def test_simpo_on_answers_is_refused(tmp_path: Path, small_model: Path) -> None:
    recipe = recipe_for(small_model, {"name": "simpo", "beta": 2.0, "margin": 0.5}, answers(tmp_path, True))
    with pytest.raises(DataError, match="no kind of preference row"):
        align(recipe, tmp_path / "run", listening()[0])


def test_the_sections_say_what_they_are(small_model: Path) -> None:
    data = {"train": "x.jsonl"}
    assert advice(recipe_for(small_model, OBJECTIVES["sft"], data)) == ["supervised fine-tuning"]
    said = advice(recipe_for(small_model, {"name": "dpo", "beta": 0.1, "length_normalised": True}, data))
    assert said == ["DPO with beta 0.1, label_smoothing 0, length_normalised; reference: adapter_off"]


@pytest.mark.parametrize(
    ("objective", "error"),
    [
        ({"name": "dpo"}, r"`objective\.beta` is missing"),
        ({"beta": 0.1}, r"`objective\.name` is missing.*known: simpo, dpo"),
        ({"name": "dpo", "beta": 0.1, "margin": 1}, r"`objective\.margin` is not a key of a recipe; known: reference"),
        ({"name": "dpo", "beta": 0.1, "referense": "model"}, r"did you mean `reference`\?"),
        ({"name": "dpo", "beta": 0.1, "gamma": 1}, r"`objective\.gamma` has two meanings"),
        ({"name": "kto", "beta": 0.1, "reference": "cached"}, r"cannot serve KTO"),
        ({"name": "dpo", "beta": 0.1, "reference_model": "x"}, r"`reference_model` is read with"),
        ({"name": "dpo", "beta": 0.1, "reference": "model", "reference_cache": "x"}, r"`reference_cache` is read only"),
    ],
    ids=str,
)
def test_mistakes_are_named(small_model: Path, objective: dict[str, Any], error: str) -> None:
    with pytest.raises(RecipeError, match=error):
        recipe_for(small_model, objective, {"train": "x.jsonl"})
