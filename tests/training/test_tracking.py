"""Every tracker gets each step's figures under TRL's names, on this machine alone, and its words stay off stdout."""

import importlib.util
import json
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from architectures import tiny
from small_training import OBJECTIVE, settings, some_pairs

from evenhand.errors import RecipeError
from evenhand.model.forward import Policy
from evenhand.training.journal import read_journal
from evenhand.training.loop import Hooks, Validation
from evenhand.training.tracking import open_accelerator
from evenhand.training.train import Place, make_policy, train_policy

# What the trackers do inside is theirs to mend.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

KEYS = {
    "loss",
    "learning_rate",
    "grad_norm",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/accuracies",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
}


def needs(*modules: str) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


def tracked_run(tracker: str, folder: Path) -> dict[int, dict[str, float]]:
    """Train 4 steps with `tracker`, validating every 2; what it should have been told, by step."""
    training = settings(steps=4, validate_every=2, report_to=[tracker])

    def validate(policy: Policy, step: int) -> Validation:
        return Validation(1.0 / step, {"pairwise_accuracy": {"value": 0.25 * step}})

    place = Place(folder, "small", {"name": "small", "training": {"seed": 3, "patience": None, "report_to": [tracker]}})
    train_policy(
        make_policy(tiny("llama"), None, training), (some_pairs(17), OBJECTIVE, training), place, Hooks(validate)
    )
    return {record["step"]: told(record) for record in read_journal(folder / "journal.jsonl")}


def told(record: dict[str, Any]) -> dict[str, float]:
    values = {
        "loss": record["loss"],
        "learning_rate": record["learning_rate"],
        "grad_norm": record["gradient_norm"],
        "rewards/chosen": 2.0 * record["chosen_mean"],
        "rewards/rejected": 2.0 * record["rejected_mean"],
        "rewards/accuracies": record["accuracy"],
        "rewards/margins": 2.0 * (record["chosen_mean"] - record["rejected_mean"]),
        "logps/chosen": record["chosen_mean"],
        "logps/rejected": record["rejected_mean"],
    }
    if "validation" in record:
        values["eval_loss"] = record["validation"]["loss"]
        values["eval_rewards/accuracies"] = record["validation"]["pairwise_accuracy"]["value"]
    return values


def assert_same(found: dict[int, dict[str, float]], wanted: dict[int, dict[str, float]]) -> None:
    assert found.keys() == wanted.keys() == {1, 2, 3, 4}
    for step, values in wanted.items():
        assert set(values) >= KEYS
        assert found[step] == pytest.approx(values, rel=1e-5, abs=1e-6), step  # trackers may keep fp32


def test_tensorboard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    wanted = tracked_run("tensorboard", tmp_path)
    events = EventAccumulator(str(tmp_path / "small"))
    events.Reload()
    found: dict[int, dict[str, float]] = {}
    for tag in events.Tags()["scalars"]:
        for event in events.Scalars(tag):
            found.setdefault(event.step, {})[tag] = event.value
    assert_same(found, wanted)
    assert capsys.readouterr().out == ""


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    needs("mlflow", "sqlalchemy", "alembic")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    wanted = tracked_run("mlflow", tmp_path / "run")
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        rows = database.execute("select step, key, value from metrics").fetchall()
        settings_kept = dict(database.execute("select key, value from params").fetchall())
    found: dict[int, dict[str, float]] = {}
    for step, key, value in rows:
        found.setdefault(step, {})[key] = value
    assert_same(found, wanted)
    assert settings_kept["training.seed"] == "3"
    assert capsys.readouterr().out == ""


def log_records(content: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log with a header of 7 bytes, which is how W&B keeps a run."""
    at, parts = 7, b""
    while at + 7 <= len(content):
        if (room := 32768 - at % 32768) < 7:
            at += room
            continue
        _, size, kind = struct.unpack("<IHB", content[at : at + 7])
        parts += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    needs("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    wanted = tracked_run("wandb", tmp_path / "run")
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    found: dict[int, dict[str, float]] = {}
    for data in log_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("history"):
            items = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
            found[items["_step"]] = {key: value for key, value in items.items() if not key.startswith("_")}
    assert_same(found, wanted)
    assert capsys.readouterr().out == ""


def test_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    needs("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, name)  # TRL imports it, and it looks for its folder then
    wanted = tracked_run("trackio", tmp_path / "run")
    (file,) = (tmp_path / "trackio").glob("small.db")
    with sqlite3.connect(file) as database:
        rows = database.execute("select step, metrics from metrics").fetchall()
    assert_same({step: json.loads(values) for step, values in rows}, wanted)
    assert capsys.readouterr().out == ""


NOT_INSTALLED = """
import sys
from pathlib import Path
for name in ("tensorboard", "tensorboardX", "mlflow", "wandb", "trackio"):
    sys.modules[name] = None  # how Python says that there is no such module
from evenhand.errors import RecipeError
from evenhand.training.tracking import open_accelerator
for name in ("tensorboard", "mlflow", "wandb", "trackio"):
    try:
        open_accelerator((name,), Path("."), "small", {})
    except RecipeError as error:
        print(error)
"""


def test_a_tracker_that_is_not_installed_is_named_with_the_command_that_installs_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NOT_INSTALLED], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        f"`training.report_to` names {name}, which is not installed: pip install 'evenhand[{name}]'."
        for name in ("tensorboard", "mlflow", "wandb", "trackio")
    ]


def test_a_tracker_that_does_not_start_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://nowhere")
    with pytest.raises(RecipeError, match=r"`training.report_to`: mlflow did not start \(.*nonsense"):
        open_accelerator(("mlflow",), tmp_path, "small", {})


def test_no_tracker_is_the_default(tmp_path: Path) -> None:
    accelerator = open_accelerator((), tmp_path, "small", {"a": None})
    assert accelerator.trackers == []
    assert list(tmp_path.iterdir()) == []
