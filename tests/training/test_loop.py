"""The loop: a run that was stopped anywhere ends with the bits of one that was not, and keeps its best weights."""

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import tiny
from small_training import assert_same_bits, run, settings, trained
from torch import Tensor

from evenhand.errors import GuardError, NonFiniteError, RecipeError
from evenhand.model.adapter import Adapter
from evenhand.model.forward import Policy
from evenhand.training.checkpoint import newest_checkpoint
from evenhand.training.journal import read_journal
from evenhand.training.loop import Hooks, Validation
from evenhand.training.schedule import Schedule

DROPPING = Adapter(4, 8.0, 0.1)
MACHINE = {"seconds", "pairs_per_second", "memory_peak_bytes"}


class StoppedError(Exception):
    pass


def stop_at(step: int) -> Hooks:
    def report(record: dict[str, Any], _: int) -> None:
        if record["step"] == step:
            raise StoppedError

    return Hooks(report=report)


def numbers(folder: Path) -> list[dict[str, Any]]:
    """The journal without what depends on the machine's mood."""
    records = read_journal(folder / "journal.jsonl")
    return [{key: value for key, value in record.items() if key not in MACHINE} for record in records]


@pytest.mark.parametrize("adapter", [None, DROPPING], ids=["full", "lora with dropout"])
def test_a_run_stopped_again_and_again_ends_with_the_same_bits(tmp_path: Path, adapter: Adapter | None) -> None:
    _, wanted = run(tmp_path / "whole", settings(), adapter=adapter)
    stopped = tmp_path / "stopped"
    for step in (1, 3, 4, 6):  # before the first checkpoint, between two, and twice just before one
        with pytest.raises(StoppedError):
            run(stopped, settings(), stop_at(step), adapter)
    outcome, got = run(stopped, settings(), adapter=adapter)
    assert (outcome.steps, outcome.model_step, outcome.stopped_early) == (6, 6, False)
    assert_same_bits(got, wanted)
    assert numbers(stopped) == numbers(tmp_path / "whole")
    again, kept = run(stopped, settings(), adapter=adapter)  # done already
    assert again == outcome
    assert_same_bits(kept, wanted)
    if adapter is None:
        start = trained(tiny("llama"))
        assert all(not torch.equal(start[name.removeprefix("model.")], weight) for name, weight in wanted.items())


def test_dropout_is_at_work(tmp_path: Path) -> None:
    _, dropping = run(tmp_path / "a", settings(steps=2), adapter=DROPPING)
    _, plain = run(tmp_path / "b", settings(steps=2), adapter=Adapter(4, 8.0))
    assert any(not torch.equal(dropping[name], plain[name]) for name in plain)


def child(folder: Path, step: int, name: str, dropout: float | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(Path(__file__).parent / "child.py"), str(folder), str(step), name]
    command += [] if dropout is None else [str(dropout)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize(("step", "dropout"), [(5, 0.1), (1, None)])
def test_a_killed_process_loses_nothing(tmp_path: Path, step: int, dropout: float | None) -> None:
    adapter = None if dropout is None else Adapter(4, 8.0, dropout)
    killed = child(tmp_path / "killed", step, "SIGKILL", dropout)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(read_journal(tmp_path / "killed" / "journal.jsonl")) == step
    checkpoint = newest_checkpoint(tmp_path / "killed" / "checkpoints")
    assert (checkpoint.step if checkpoint else 0) == step - 1
    _, got = run(tmp_path / "killed", settings(), adapter=adapter)
    _, wanted = run(tmp_path / "whole", settings(), adapter=adapter)
    assert_same_bits(got, wanted)
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_saves_the_running_step_and_says_so(tmp_path: Path, name: str, code: int) -> None:
    stopped = child(tmp_path / "stopped", 3, name)
    assert stopped.returncode == code, stopped.stderr
    assert f"error: stopped by {name} after step 3 of 6, which is saved in" in stopped.stderr
    checkpoint = newest_checkpoint(tmp_path / "stopped" / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.step == 3
    _, got = run(tmp_path / "stopped", settings())
    _, wanted = run(tmp_path / "whole", settings())
    assert_same_bits(got, wanted)
    assert numbers(tmp_path / "stopped") == numbers(tmp_path / "whole")


def test_signal_handlers_are_given_back(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(StoppedError):
        run(tmp_path, settings(), stop_at(2))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_another_run_in_the_folder_is_refused_by_what_differs(tmp_path: Path) -> None:
    run(tmp_path, settings(steps=2), identity={"data": "1", "model": "a"})
    with pytest.raises(
        RecipeError,
        match="holds a run with another data \\(1, now 2\\), method \\(absent, now x\\); choose another --out",
    ):
        run(tmp_path, settings(steps=2), identity={"data": "2", "model": "a", "method": "x"})
    run(tmp_path, settings(steps=2), identity={"model": "a", "data": "1"})


def test_checkpoints_none_of_which_is_whole_are_not_a_fresh_start(tmp_path: Path) -> None:
    run(tmp_path, settings(steps=2))
    (tmp_path / "checkpoints" / "step-000002" / "state.json").write_text("{}")
    with pytest.raises(RecipeError, match="no checkpoint is whole; remove the folder to start afresh"):
        run(tmp_path, settings(steps=2))


def test_a_damaged_newest_checkpoint_costs_its_steps_only(tmp_path: Path) -> None:
    _, wanted = run(tmp_path, settings())
    journal = numbers(tmp_path)
    file = tmp_path / "checkpoints" / "step-000006" / "state.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    _, got = run(tmp_path, settings())
    assert_same_bits(got, wanted)
    assert numbers(tmp_path) == journal


def validating(losses: list[float]) -> tuple[Hooks, dict[int, dict[str, Tensor]]]:
    """A validator that finds `losses` in turn, and the weights that it saw at each step."""
    seen: dict[int, dict[str, Tensor]] = {}
    waiting = iter(losses)

    def validate(policy: Policy, step: int) -> Validation:
        seen[step] = trained(policy)
        return Validation(next(waiting), {"note": step})

    return Hooks(validate), seen


def test_early_stopping_keeps_the_best(tmp_path: Path) -> None:
    hooks, seen = validating([0.9, 0.5, 0.6, 0.7])
    outcome, got = run(tmp_path, settings(validate_every=1, patience=2, checkpoint_every=None), hooks)
    assert (outcome.steps, outcome.model_step, outcome.stopped_early) == (4, 2, True)
    assert_same_bits(got, seen[2])
    assert [record["validation"] for record in read_journal(tmp_path / "journal.jsonl")] == [
        {"loss": loss, "note": step} for step, loss in enumerate([0.9, 0.5, 0.6, 0.7], 1)
    ]
    again, kept = run(tmp_path, settings(validate_every=1, patience=2, checkpoint_every=None), validating([])[0])
    assert again == outcome
    assert_same_bits(kept, seen[2])


def test_a_recipe_in_epochs_is_validated_after_each_and_the_best_is_kept(tmp_path: Path) -> None:
    hooks, seen = validating([0.5, 0.4, 0.6])
    outcome, got = run(tmp_path, settings(steps=None, epochs=3), hooks)  # 17 pairs, 5 a step: 4 steps an epoch
    assert list(seen) == [4, 8, 12]
    assert (outcome.steps, outcome.model_step) == (12, 8)
    assert_same_bits(got, seen[8])
    records = read_journal(tmp_path / "journal.jsonl")
    assert [record["epoch"] for record in records if "validation" in record] == [1.0, 2.0, 3.0]
    assert records[4]["epoch"] == pytest.approx(1 + 5 / 17, abs=1e-6)


def test_the_best_step_is_kept_without_patience_too(tmp_path: Path) -> None:
    hooks, seen = validating([0.5, 0.4, 0.6])
    outcome, got = run(tmp_path, settings(validate_every=2, keep_checkpoints=1), hooks)
    assert (outcome.steps, outcome.model_step, outcome.stopped_early) == (6, 4, False)
    assert_same_bits(got, seen[4])
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-000004", "step-000006"]


def test_a_damaged_best_checkpoint_is_not_replaced_by_a_worse_one(tmp_path: Path) -> None:
    run(tmp_path, settings(validate_every=2), validating([0.4, 0.5, 0.6])[0])
    (tmp_path / "checkpoints" / "step-000002" / "state.json").unlink()
    with pytest.raises(RecipeError, match="the best checkpoint, of step 2, is damaged"):
        run(tmp_path, settings(validate_every=2), validating([])[0])


def test_patience_is_remembered_over_a_stop(tmp_path: Path) -> None:
    def stopping(step: int, losses: list[float]) -> Hooks:
        return Hooks(validating(losses)[0].validate, stop_at(step).report)

    choice = settings(validate_every=1, patience=3, checkpoint_every=1)
    with pytest.raises(StoppedError):
        run(tmp_path, choice, stopping(4, [0.5, 0.6, 0.7, 0.8]))  # two without gain are saved, the third is not
    outcome, _ = run(tmp_path, choice, validating([0.8])[0])
    assert (outcome.steps, outcome.model_step, outcome.stopped_early) == (4, 1, True)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_validation_loss_that_is_not_finite_stops_the_run(tmp_path: Path, loss: float) -> None:
    with pytest.raises(NonFiniteError, match="validation loss after step 4 is"):
        run(tmp_path, settings(validate_every=2), validating([0.5, loss])[0])
    checkpoint = newest_checkpoint(tmp_path / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.step == 2


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    with pytest.raises(GuardError, match="not finite"):
        run(tmp_path, settings(learning_rate=1e38, warmup=0.0, checkpoint_every=1))
    assert newest_checkpoint(tmp_path / "checkpoints") is None or _finite(tmp_path)


def _finite(folder: Path) -> bool:
    checkpoint = newest_checkpoint(folder / "checkpoints")
    assert checkpoint is not None
    return all(bool(torch.isfinite(tensor).all()) for tensor in checkpoint.tensors().values())


def test_the_journal_holds_what_is_promised(tmp_path: Path) -> None:
    run(tmp_path, settings())
    records = read_journal(tmp_path / "journal.jsonl")
    promised = "step epoch pairs tokens loss accuracy gap learning_rate gradient_norm seconds pairs_per_second memory_peak_bytes"
    assert all(set(promised.split()) <= record.keys() for record in records)
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert [record["pairs"] for record in records] == [
        5,
        10,
        15,
        17,
        22,
        27,
    ]  # 17 pairs: the last step of a pass is short
    schedule = Schedule("cosine", 1e-3, 0.1, 6)
    assert [record["learning_rate"] for record in records] == [schedule.rate(step) for step in range(6)]
    for before, after in itertools.pairwise(records):
        assert before["tokens"] < after["tokens"]
        assert before["seconds"] < after["seconds"]
    assert all(r["pairs_per_second"] == pytest.approx(r["pairs"] / r["seconds"]) for r in records)
    assert all(2**26 < r["memory_peak_bytes"] < 2**36 for r in records)


def test_a_damaged_newer_checkpoint_never_costs_the_good_one(tmp_path: Path) -> None:
    few = {"checkpoint_every": 2, "keep_checkpoints": 2}
    run(tmp_path, settings(**few))
    root = tmp_path / "checkpoints"
    newest = newest_checkpoint(root)
    assert newest is not None
    (newest.folder / "state.json").write_text("{}")
    with pytest.raises(StoppedError):
        run(tmp_path, settings(**few | {"keep_checkpoints": 1, "checkpoint_every": 1}), hooks=stop_at(newest.step))
    found = newest_checkpoint(root)
    assert found is not None
    assert found.step == newest.step - 1
    assert [folder.name for folder in root.glob("damaged-*")] == [f"damaged-{newest.folder.name}"]
