"""What the README tells a stranger to type works as written."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from transformers import AutoModelForCausalLM

from evenhand.data.harbor import harbor
from evenhand.data.read import read_pairs
from evenhand.errors import ModelError
from evenhand.model.builtin import builtin_folder
from evenhand.model.load import find_source, load_tokenizer
from evenhand.training.recipe import check_recipe

README = Path(__file__).parent.parent / "README.md"
PAIRS = 10
# Of the built-in model's thirty: what is shown here is that the commands work, and the demo trains all of it.
LAYERS = 2


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line.partition("#")[0].split() for block in blocks("sh") for line in block.splitlines()]
    return [words for words in lines if words]


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder as a user has it: pairs.jsonl, held_out.jsonl and a model folder, here of a few of the built-in model's layers."""
    try:
        model = builtin_folder()
    except ModelError as error:
        pytest.skip(str(error))
    source = tmp_path / "all.jsonl"
    source.write_text("".join(line + "\n" for line in harbor(5, judgments=120).lines), encoding="utf-8")
    rows = [json.dumps(pair.json()) + "\n" for pair in read_pairs(source)[1]]
    (tmp_path / "pairs.jsonl").write_text("".join(rows[:PAIRS]), encoding="utf-8")
    (tmp_path / "held_out.jsonl").write_text("".join(rows[PAIRS : PAIRS + 3]), encoding="utf-8")
    shallow = AutoModelForCausalLM.from_pretrained(model)
    del shallow.model.layers[LAYERS:]
    shallow.config.num_hidden_layers = LAYERS
    shallow.save_pretrained(tmp_path / "my-model")
    load_tokenizer(find_source(str(model))).save_pretrained(tmp_path / "my-model")
    return tmp_path


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_every_command_runs_in_the_order_it_is_shown(desk: Path) -> None:
    shown = commands()
    assert {words[1] for words in shown} >= {"audit", "curate", "init", "train", "evaluate", "score"}
    for words in shown:
        assert words[0] == "evenhand"
        done = run(words, desk)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr[-2000:]}"
        if words[1] == "init":
            recipe = desk / words[2] / "recipe.yaml"
            text = recipe.read_text(encoding="utf-8")
            assert text.count("builtin:smollm2-135m") == 1
            recipe.write_text(text.replace("builtin:smollm2-135m", "./my-model"), encoding="utf-8")
    assert (desk / "runs/my-run/report.html").exists()
    assert (desk / "rows.parquet").exists()


def test_every_python_block_runs(desk: Path) -> None:
    assert blocks("python")
    for block in blocks("python"):
        assert len([line for line in block.splitlines() if line.strip()]) < 20
        done = run([sys.executable, "-c", block], desk)
        assert done.returncode == 0, done.stderr[-2000:]
        assert "->" in done.stdout


def test_the_recipe_shown_is_a_recipe() -> None:
    (shown,) = blocks("yaml")
    recipe = check_recipe(yaml.safe_load(shown), "README.md")
    assert (recipe.objective.build().beta, recipe.objective.build().margin) == (2.0, 0.5)


def test_the_demo_runs_quickly_and_a_second_time_at_once(tmp_path: Path) -> None:
    if shutil.which("evenhand", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("the evenhand command is not installed beside this Python")
    command = ["evenhand", "demo", "--quick", "--out", "demo", "--json"]
    first = run(command, tmp_path)
    assert first.returncode == 0, first.stderr[-2000:]
    report = json.loads(first.stdout)["report"]
    assert report["before"]["pairwise_accuracy"]["n"] == report["after"]["pairwise_accuracy"]["n"] > 0
    second = run(command, tmp_path)
    assert second.returncode == 0
    assert "done already" in second.stderr
    assert json.loads(second.stdout)["report"] == report
