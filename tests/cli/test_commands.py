"""The commands as a person and a script use them: help that starts at once, JSON alone on stdout, errors as a sentence."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_model import recipe_value, rows, small_llama, small_tokenizer, write_recipe, write_rows
from torch import save as write_pickle

from evenhand.cli.main import app, run
from evenhand.training.journal import read_journal

COMMANDS = [command.callback.__name__ for command in app.registered_commands if command.callback]
Invoke = Callable[..., "Answer"]


@dataclass
class Answer:
    code: int
    out: str
    err: str


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Invoke:
    """Run `evenhand ARGUMENTS` in a folder of its own, in this process."""
    desk = tmp_path / "desk"
    desk.mkdir()
    monkeypatch.chdir(desk)

    def call(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["evenhand", *map(str, arguments)])
        capsys.readouterr()
        stdout = sys.stdout
        with pytest.raises(SystemExit) as ended:
            run()
        sys.stdout = stdout
        captured = capsys.readouterr()
        return Answer(int(ended.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture
def recipe(tmp_path: Path, small_model: Path) -> Path:
    """A recipe for the small model with files beside it."""
    made = rows(26)
    data = {
        "train": str(write_rows(tmp_path / "train.jsonl", made[:18])),
        "validation": str(write_rows(tmp_path / "held_out.jsonl", made[18:])),
    }
    return write_recipe(tmp_path / "recipe.yaml", recipe_value(small_model, data))


def changed(recipe: Path, section: str, **changes: Any) -> Path:
    value = yaml.safe_load(recipe.read_text())
    value[section] = {k: v for k, v in (value[section] | changes).items() if v is not ...}
    return write_recipe(recipe, value)


def assert_refused(answer: Answer, said: str) -> None:
    """Exit 2, one sentence, and nothing written where the command ran."""
    assert answer.code == 2, answer.err
    assert answer.out == ""
    lines = answer.err.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0] == lines[-1]
    assert said in errors[0]
    assert "Traceback" not in answer.err
    assert list(Path.cwd().rglob("*")) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example(invoke: Invoke, name: str) -> None:
    answer = invoke(name, "--help")
    assert answer.code == 0
    assert f"Example: evenhand {name}" in " ".join(answer.out.split())
    assert "--json" in answer.out


def test_help_starts_without_torch() -> None:
    code = (
        "import sys\nfrom evenhand.cli.main import app\nfrom typer.testing import CliRunner\n"
        f"for name in {COMMANDS!r}:\n    assert CliRunner().invoke(app, [name, '--help']).exit_code == 0\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow', 'numpy', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_all_commands_of_the_design_that_exist_are_listed(invoke: Invoke) -> None:
    answer = invoke("--help")
    assert answer.code == 0
    assert {"demo", "init", "audit", "curate", "train", "score", "evaluate"} <= set(COMMANDS)
    assert all(name in answer.out for name in COMMANDS)


def test_json_is_alone_on_stdout(invoke: Invoke, recipe: Path) -> None:
    held_out = recipe.parent / "held_out.jsonl"
    calls: dict[str, tuple[list[object], set[str]]] = {
        "init": (["init", "new"], {"recipe", "schema"}),
        "audit": (["audit", held_out], {"rows_in", "rows_used", "refused", "findings"}),
        "curate": (["curate", recipe.parent / "train.jsonl", "--out", "data"], {"hash", "counts"}),
        "dry run": (["train", recipe, "--dry-run"], {"steps", "rows_in", "trained_weights"}),
        "train": (["train", recipe, "--out", "run"], {"run", "model", "report", "page"}),
        "train again": (["train", recipe, "--out", "run"], {"run", "model", "report", "page"}),
        "score": (["score", "run", held_out, "--out", "rows.parquet"], {"rows", "pairs", "refused"}),
        "evaluate": (["evaluate", "run", held_out, "--prompts", 1], {"pairwise_accuracy", "slices", "generation"}),
    }
    for name, (arguments, keys) in calls.items():
        answer = invoke(*arguments, "--json")
        assert answer.code == 0, (name, answer.err)
        assert keys <= json.loads(answer.out).keys(), name
        quiet = invoke(*arguments, "--json", "--quiet") if name != "init" else answer
        assert quiet.err == "" or name == "init", name
        assert json.loads(quiet.out).keys() == json.loads(answer.out).keys()


MISTAKES: dict[str, tuple[Callable[[Path], list[object]], str]] = {
    "unknown key": (lambda r: ["train", changed(r, "training", lerning_rate=1)], "did you mean `learning_rate`?"),
    "bare gamma": (
        lambda r: ["train", changed(r, "objective", margin=..., gamma=1.0)],
        "`paper_gamma: 1.0`, which is a margin of 0.5",
    ),
    "no recipe": (
        lambda r: ["train", r.parent / "absent.yaml"],
        "absent.yaml: No such file or directory; write a recipe",
    ),
    "recipe is a folder": (lambda r: ["train", r.parent], "Is a directory; write a recipe with `evenhand init`"),
    "no data": (lambda r: ["train", changed(r, "data", train="nowhere.jsonl")], "nowhere.jsonl"),
    "empty data": (
        lambda r: ["train", changed(r, "data", train=str(write_rows(r.parent / "empty.jsonl", [])))],
        "empty.jsonl",
    ),
    "ruinous rate": (
        lambda r: ["train", changed(changed(r, "model", adapter=None), "training", learning_rate=1e-5)],
        "pass --force",
    ),
    "bad --set": (lambda r: ["train", r, "--set", "training.steps"], "is not key=value"),
    "--set that is not YAML": (lambda r: ["train", r, "--set", "training.steps=[1"], "the value is not YAML"),
    "no model": (lambda r: ["train", changed(r, "model", source="./no/model")], "./no/model is not a folder"),
    "out is a file": (lambda r: ["train", r, "--out", r], "recipe.yaml is a file; choose another --out"),
    "unknown dtype": (lambda r: ["score", "m", "d", "--dtype", "float8"], "--dtype 'float8' is none of auto"),
    "no data to audit": (lambda r: ["audit", "nowhere.jsonl"], "nowhere.jsonl"),
    "no data to curate": (lambda r: ["curate", "nowhere.jsonl", "--out", "data"], "nowhere.jsonl"),
    "prompts below none": (lambda r: ["train", changed(r, "evaluation", prompts=-1)], "`evaluation.prompts`"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_and_changes_nothing(
    invoke: Invoke, recipe: Path, small_model: Path, name: str
) -> None:
    arguments, said = MISTAKES[name]
    words = [
        small_model if word == "m" else recipe.parent / "held_out.jsonl" if word == "d" else word
        for word in arguments(recipe)
    ]
    assert_refused(invoke(*words), said)


def test_a_ruinous_rate_can_be_insisted_on(invoke: Invoke, recipe: Path) -> None:
    changed(changed(recipe, "model", adapter=None), "training", learning_rate=1e-5, steps=1)
    answer = invoke("train", recipe, "--out", "run", "--force")
    assert answer.code == 0, answer.err
    assert read_journal(Path("run/journal.jsonl"))[0]["learning_rate"] == 1e-5


def model_with(folder: Path, **changes: Callable[[Path], object]) -> Path:
    small_llama().save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)
    for change in changes.values():
        change(folder)
    return folder


def only_pickles(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    write_pickle(small_llama().state_dict(), folder / "pytorch_model.bin")


def custom_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_evil.Evil"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_evil.py").write_text("open('/tmp/evenhand-canary', 'w').close()\n")


def no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (only_pickles, "has its weights only as pickles (pytorch_model.bin), which can execute code"),
        (custom_code, "asks for custom code (`auto_map`), which evenhand never executes"),
        (no_template, "has no chat template; give a chat model, or set `data.template: plain`"),
        (lambda folder: (folder / "config.json").unlink(), "holds neither config.json nor adapter_config.json"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"torn"), "the model cannot be loaded"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "the tokenizer cannot be loaded"),
    ],
)
def test_a_model_that_may_not_or_cannot_be_opened(
    invoke: Invoke, recipe: Path, tmp_path: Path, change: Callable[[Path], object], said: str
) -> None:
    folder = model_with(tmp_path / "model", change=change)
    for words in (
        ["train", changed(recipe, "model", source=str(folder))],
        ["train", recipe, "--dry-run"],
        ["score", folder, recipe.parent / "held_out.jsonl"],
        ["evaluate", folder, recipe.parent / "held_out.jsonl"],
    ):
        assert_refused(invoke(*words), said)


def test_init_never_overwrites(invoke: Invoke) -> None:
    assert invoke("init", "new").code == 0
    recipe = Path("new/recipe.yaml")
    recipe.write_text("mine")
    answer = invoke("init", "new")
    assert answer.code == 2
    assert answer.err == "error: new/recipe.yaml exists already; choose another folder, or remove it.\n"
    assert recipe.read_text() == "mine"


def test_a_strict_audit_says_no_with_exit_1(invoke: Invoke, tmp_path: Path) -> None:
    made = rows(12)
    turned = [{"prompt": row["prompt"], "chosen": row["rejected"], "rejected": row["chosen"]} for row in made]
    data = write_rows(tmp_path / "d.jsonl", [*made, *turned])
    plain, strict = invoke("audit", data, "--json"), invoke("audit", data, "--json", "--strict")
    assert (plain.code, strict.code) == (0, 1)
    assert json.loads(plain.out) == json.loads(strict.out)
    assert any(f["id"] == "contradiction" and f["severity"] == "severe" for f in json.loads(plain.out)["findings"])
    assert "Traceback" not in strict.err


def test_a_real_process_is_interrupted_saves_and_goes_on(tmp_path: Path, recipe: Path) -> None:
    """As a person does it: Ctrl-C, then the same command again; with a tracker that talks on stdout if there is one."""
    tracker = ["trackio"] if importlib.util.find_spec("trackio") else []
    changed(recipe, "training", steps=50, report_to=tracker)
    command = [
        sys.executable,
        "-c",
        "from evenhand.cli.main import run; run()",
        "train",
        str(recipe),
        "--out",
        "run",
        "--json",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRACKIO_DIR": str(tmp_path / "trackio")}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    journal = tmp_path / "run" / "journal.jsonl"
    deadline = time.monotonic() + 120
    while len(read_journal(journal)) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert out == ""
    assert "error: stopped by SIGINT after step" in err
    done = len(read_journal(journal))
    finished = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(finished.stdout)["run"] == "run"
    assert "Traceback" not in finished.stderr
    assert [record["step"] for record in read_journal(journal)] == list(range(1, 51))
    assert 2 <= done < 50
