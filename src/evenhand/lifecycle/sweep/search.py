"""A worker of a sweep: takes trials until there are none, and writes what was found."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import Trial, TrialState

from evenhand.errors import RecipeError
from evenhand.files import canonical_json, sha256, write_json, write_whole
from evenhand.lifecycle.align import identity_of
from evenhand.lifecycle.bench import Telling
from evenhand.lifecycle.sweep.ranking import Entry, behind, objection, ranked, told_apart
from evenhand.lifecycle.sweep.space import Params, Wanted, sampler, trial_name, words
from evenhand.lifecycle.sweep.study import (
    Shared,
    done,
    heartbeat,
    number_of,
    open_study,
    params_of,
    studied,
    study_url,
)
from evenhand.lifecycle.sweep.trial import RESULT, Ground, prepare_ground, run_trial, unfit
from evenhand.training.ranks import launched_ranks

_POLL_SECONDS = 2.0
# So often the sampler may propose what was tried already, before the first that was not is taken.
_PROPOSALS = 20
_FEWEST_FOR_IMPORTANCE = 8


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker: what is wanted, where, and the study that it shares."""

    wanted: Wanted
    ground: Ground
    shared: Shared

    def folder_of(self, params: Params) -> Path:
        """The run folder of a trial; values that make no recipe together get a name for the record, and no folder."""
        try:
            name = trial_name(self.wanted.trial(params))
        except RecipeError:
            name = sha256(canonical_json(dict(params)))[:12]
        return self.ground.folder / "trials" / name

    def entries(self) -> list[Entry]:
        """Every trial that is done, by number; results travel in the study, rows lie in run folders."""
        return [
            Entry(
                number_of(one),
                self.folder_of(one.params),
                one.params,
                one.user_attrs.get("stage"),
                one.user_attrs["result"],
            )
            for one in done(self.shared.trials)
        ]


def sweep(wanted: Wanted, folder: Path, url: str | None, tell: Telling) -> dict[str, Any]:
    """Run trials until all are done, by this worker or others of the same study; what was found, as JSON.

    A second call goes on where the first stopped, and runs nothing twice. Raises RecipeError for a study of something
    else, UserError for a database that does not answer, and what training raises.
    """
    if launched_ranks().size > 1:
        raise RecipeError(
            "a sweep's workers are processes of their own; start `evenhand sweep` once for each, without torchrun."
        )
    folder.mkdir(parents=True, exist_ok=True)
    ground = prepare_ground(wanted.recipe, folder, tell)
    section = wanted.sweep.model_dump(mode="json", exclude={"trials"})  # more can be asked for later
    about = {
        "sweep": sha256(canonical_json(section)),
        **identity_of(wanted.recipe, ground.hashes, ground.tokenizer),
    }
    shared = open_study(url or study_url(folder), wanted.recipe.name, about, wanted.sweep.prune)
    worker = Worker(wanted, ground, shared)
    if wanted.sweep.prune and wanted.recipe.training.validate_every is None:
        tell.say(
            "`training.validate_every` is left out, so that no trial is looked at before its end, and none is pruned"
        )
    if wanted.most != wanted.sweep.trials:
        tell.say(
            f"`sweep.space` holds {wanted.most} different trials and `sweep.trials` is {wanted.sweep.trials}: the sweep "
            "ends when all of them are done"
        )
    while not _all_done(worker):
        trial = _next(worker)
        if trial is None:
            time.sleep(_POLL_SECONDS)  # others are at work, and what comes next hangs on them
        else:
            _work(worker, trial)
    return conclude(worker)


def _next(worker: Worker) -> Trial | None:
    """A trial for this worker; None where it has to wait for others."""
    shared, wanted, most = worker.shared, worker.wanted, worker.wanted.most
    for number in shared.take_back_lost(most):
        worker.ground.tell.say(f"trial {number} lost its worker; it goes on from its last checkpoint")
    distributions = wanted.distributions
    if most is None:
        _enqueue_stage(worker)
        return shared.claim(distributions, None)
    for _ in range(_PROPOSALS):
        count = len(shared.trials)
        shared.study.sampler = sampler(wanted.sweep.seed, len(shared.study.get_trials(deepcopy=False)))
        trial = shared.claim(distributions, most)
        if trial is not None or count >= most:
            return trial
    tried = [params_of(one) for one in shared.trials]
    untried = next((params for params in wanted.combinations() if params not in tried), None)
    if untried is not None:
        shared.wait_for(untried, {})
    return shared.claim(distributions, most)


def _enqueue_stage(worker: Worker) -> None:
    """Put the trials of the first stage that is not complete into the study, once the stages before it are."""
    for stage, base in _reached(worker):
        for value in stage.values:
            worker.shared.wait_for(base | {stage.key: value}, {"stage": stage.key})


def _reached(worker: Worker) -> list[tuple[Any, dict[str, Any]]]:
    """The stages that can be known by now, each with the values the others have in it."""
    found, base = [], dict(worker.wanted.start)
    finished = {canonical_json(params_of(one)): one for one in done(worker.shared.trials)}
    for stage in worker.wanted.stages:
        found.append((stage, dict(base)))
        own = [canonical_json(base | {stage.key: value}) for value in stage.values]
        if not all(key in finished for key in own):
            break
        numbers = {number_of(finished[key]) for key in own}
        best = ranked(
            [entry for entry in worker.entries() if entry.number in numbers],
            worker.ground.start_tokens,
            worker.wanted.sweep.length_drift,
        )
        if best:
            base[stage.key] = best[0].params[stage.key]
    return found


def _all_done(worker: Worker) -> bool:
    trials = worker.shared.trials
    if any(one.state not in (TrialState.COMPLETE, TrialState.PRUNED) for one in trials):
        return False
    if worker.wanted.most is not None:
        return len(trials) >= worker.wanted.most
    reached = _reached(worker)
    stage, base = reached[-1]
    have = [params_of(one) for one in trials]
    return len(reached) == len(worker.wanted.stages) and all(
        base | {stage.key: value} in have for value in stage.values
    )


def _work(worker: Worker, trial: Trial) -> None:
    """Run a trial to its end and tell the study; drop it where another worker has taken it for lost meanwhile."""
    say, number = worker.ground.tell.say, trial.user_attrs.get("first", trial.number)
    say(f"trial {number}: {words(trial.params)}")
    try:
        with heartbeat(trial):
            _tell_result(worker, trial, _result(worker, trial))
    except UpdateFinishedTrialError:
        say(
            f"trial {number} is dropped here: this worker was silent for so long that the trial was given to whoever is next"
        )


def _result(worker: Worker, trial: Trial) -> dict[str, Any]:
    """What comes of a trial; the study is told of each validation."""

    def hopeless(validation: dict[str, Any], step: int) -> bool:
        with studied():
            value = (validation.get("length_balanced_accuracy") or {}).get("value")
            if value is None:
                return False
            trial.report(float(value), step)
            return worker.wanted.sweep.prune and trial.should_prune()

    try:
        recipe = worker.wanted.trial(trial.params)
    except RecipeError as error:  # each value is good beside the first of the others, and not these together
        return unfit(str(error))
    return run_trial(worker.ground, recipe, worker.folder_of(trial.params), hopeless)


def _tell_result(worker: Worker, trial: Trial, result: dict[str, Any]) -> None:
    study = worker.shared.study
    with studied():
        trial.set_user_attr("result", {key: own for key, own in result.items() if key != "identity"})
        value = (result.get("length_balanced_accuracy") or {}).get("value")
        lost = value is None or result["guard"] or result["pruned"] is not None
        if lost:
            study.tell(trial.number, state=TrialState.PRUNED, skip_if_finished=True)
        else:
            study.tell(trial.number, value, skip_if_finished=True)


def conclude(worker: Worker) -> dict[str, Any]:
    """Rank what is done; writes `best.yaml` and `sweep.json`, and returns the latter."""
    wanted, ground = worker.wanted, worker.ground
    entries = worker.entries()
    order = ranked(entries, ground.start_tokens, wanted.sweep.length_drift)
    value: dict[str, Any] = {
        "name": wanted.recipe.name,
        "pairs": len(ground.before.scored),
        "before": ground.before.preference.length_balanced_accuracy.json(),
        "keys": list(wanted.distributions),
        "trials": [_told(worker, own, order[0] if order else None) for own in _in_order(entries, order)],
        "importance": _importance(worker.shared.study, len(order)),
        "best": None,
        "recipe": None,
        "equals": None,
    }
    if order:
        best = order[0]
        apart = [own for own in order[1:] if told_apart(behind(best, own, ground.traits))] if _has_rows(order) else []
        recipe_file = ground.folder / "best.yaml"
        write_whole(recipe_file, _recipe_text(wanted, best, len(entries)))
        value |= {
            "best": {"number": best.number, "params": dict(best.params), "run": str(best.folder)},
            "recipe": str(recipe_file),
            "equals": len(order) - 1 - len(apart) if _has_rows(order) else None,
        }
    write_json(ground.folder / "sweep.json", value)
    return value


def _has_rows(order: list[Entry]) -> bool:
    """Whether all rows lie here; those of another machine's trials may not."""
    return all((own.folder / RESULT).exists() for own in order)


def _in_order(entries: list[Entry], order: list[Entry]) -> list[Entry]:
    return [*order, *(own for own in entries if own not in order)]


def _told(worker: Worker, entry: Entry, best: Entry | None) -> dict[str, Any]:
    said = objection(entry, worker.ground.start_tokens, worker.wanted.sweep.length_drift)
    rows_here = best is not None and said is None and _has_rows([best, entry])
    less = behind(best, entry, worker.ground.traits) if rows_here and best is not None and entry is not best else None
    return {
        "number": entry.number,
        "stage": entry.stage,
        "params": dict(entry.params),
        "run": str(entry.folder),
        **entry.result,
        "objection": said,
        "behind_best": less.json() if less else None,
    }


def _importance(study: optuna.Study, count: int) -> dict[str, float] | None:
    """How much of the spread of accuracies each key explains (PED-ANOVA, Watanabe et al. 2023, arXiv 2304.10255); None
    where the trials are too few to say."""
    if count < _FEWEST_FOR_IMPORTANCE:
        return None
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    try:
        return {
            key: float(own) for key, own in optuna.importance.get_param_importances(study, evaluator=evaluator).items()
        }
    except (ValueError, RuntimeError, ZeroDivisionError):  # all trials alike
        return None


def _recipe_text(wanted: Wanted, best: Entry, count: int) -> str:
    figure = best.accuracy.words(percent=True, digits=1)
    value = wanted.trial(best.params).model_dump(mode="json", exclude_none=True)
    return (
        f"# The best of {count} trials: length-balanced accuracy {figure} on the pairs it was chosen by, which flatters it.\n"
        f"# Go on from its checkpoint to export and report:  evenhand train best.yaml --out {best.folder}\n"
        + yaml.safe_dump(value, sort_keys=False)
    )
