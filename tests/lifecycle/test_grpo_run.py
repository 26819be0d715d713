"""GRPO and RLOO from recipe to report and export, with a verifier as reward; and what is said where TRL is not."""

import builtins
import json
import sys
from pathlib import Path

import pytest
from small_model import listening, recipe_value, rows, write_rows
from test_ppo_run import journal, ppo_recipe
from transformers import AutoModelForCausalLM

from evenhand.errors import RecipeError, UserError
from evenhand.lifecycle.align import align
from evenhand.lifecycle.bench import Telling
from evenhand.lifecycle.bundle import Wanted, export_run
from evenhand.lifecycle.manifest import problems
from evenhand.lifecycle.summary import summary, summary_words
from evenhand.training.recipe import check_recipe

SILENT = listening()[0]
BRIEF = {"source": "evenhand.online.verifiers:length", "arguments": {"most": 1}}


def group_recipe(folder: Path, model: Path, name: str, rewards, adapter=True, **training):
    value = ppo_recipe(folder, model, rewards, **training).resolved()
    value["objective"] = {"name": name, "rewards": rewards, "replies": 4, "max_new_tokens": 4, "kl": 0.05}
    if not adapter:
        value["model"]["adapter"] = None
    value["training"].pop("paper_gamma", None)
    return check_recipe(value, "recipe.yaml")


@pytest.mark.parametrize(("name", "adapter"), [("grpo", True), ("rloo", False)])
def test_a_run_reports_exports_and_is_done(tmp_path: Path, small_model: Path, name: str, adapter: bool) -> None:
    pytest.importorskip("trl")
    recipe = group_recipe(tmp_path, small_model, name, [f"{tmp_path / 'own.py'}:letters", BRIEF], adapter)
    run = align(recipe, tmp_path / "run", SILENT)
    report = json.loads((run / "report.json").read_text())
    assert report["differences"]["reward"]["n"] == 6
    assert "mean reward of replies went from" in report["verdict"]["sentence"]
    assert "mean reward of a reply" in summary_words(summary(run))
    record = journal(run)[0]
    assert {"reward", "token_kl", "entropy", "clip_fraction", "equal_groups", "gradient_norm"} - record.keys() <= (
        set() if name == "grpo" else {"token_kl"}
    )
    assert len(journal(run)) == 3
    kept = [file.name for file in run.rglob("*") if file.suffix in (".pt", ".bin", ".pkl", ".pth")]
    assert kept == []
    export_run(run, tmp_path / "ship", Wanted(merge=adapter), SILENT.say)
    assert problems(tmp_path / "ship") == []
    tell, said = listening()
    assert align(recipe, run, tell) == run
    assert any("is done already" in sentence for sentence in said)
    AutoModelForCausalLM.from_pretrained(tmp_path / "ship")


def test_a_run_that_is_cut_goes_on_with_the_same_bits(tmp_path: Path, small_model: Path) -> None:
    pytest.importorskip("trl")
    recipe = group_recipe(tmp_path, small_model, "grpo", [f"{tmp_path / 'own.py'}:letters"], checkpoint_every=1)
    whole = align(recipe, tmp_path / "whole", SILENT)

    def cut(record: dict, steps: int) -> None:
        if record["step"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        align(recipe, tmp_path / "cut", Telling(SILENT.say, SILENT.narrate, cut))
    again = align(recipe, tmp_path / "cut", SILENT)
    name = "model/adapter_model.safetensors"
    assert (again / name).read_bytes() == (whole / name).read_bytes()


def test_without_trl_a_sentence_says_how_to_get_it_before_a_folder_is_made(
    tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = builtins.__import__

    def without(wanted, *more, **named):
        if wanted.partition(".")[0] == "trl":
            raise ImportError("No module named 'trl'")
        return own(wanted, *more, **named)

    monkeypatch.delitem(sys.modules, "evenhand.online.groups", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install 'evenhand\[rl\]'"):
        align(group_recipe(tmp_path, small_model, "grpo", [BRIEF]), tmp_path / "run", SILENT)
    assert not (tmp_path / "run" / "identity.json").exists()


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        ({"name": "grpo", "rewards": [BRIEF], "replies": 1, "max_new_tokens": 4, "kl": 0.0}, "replies"),
        ({"name": "rloo", "rewards": [BRIEF], "replies": 2, "max_new_tokens": 4, "kl": 0.0, "loss": "dapo"}, "loss"),
        ({"name": "grpo", "rewards": [], "replies": 2, "max_new_tokens": 4, "kl": 0.0}, "rewards"),
    ],
)
def test_a_recipe_that_cannot_be_trained_is_refused_by_its_key(
    tmp_path: Path, small_model: Path, objective, said
) -> None:
    data = {"train": str(write_rows(tmp_path / "train.jsonl", rows(4)))}
    value = recipe_value(small_model, data) | {"objective": objective}
    with pytest.raises(RecipeError, match=said):
        check_recipe(value, "recipe.yaml")
