"""The one loop of every offline method: step, journal, validation, checkpoint; it resumes by itself."""

import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from signal import Signals
from typing import Any

from evenhand.errors import CollapseError, InterruptedRun, NonFiniteError
from evenhand.model.forward import Policy
from evenhand.model.store import side_lengths
from evenhand.training.baseline import with_baseline
from evenhand.training.budget import budget_note, default_budget, find_budget, within_memory
from evenhand.training.checkpoint import checkpoints_of, require_room
from evenhand.training.journal import append_record, journal_of
from evenhand.training.memory import memory_peak_bytes
from evenhand.training.optim import MasterAdamW
from evenhand.training.plan import epoch_ends, steps_from
from evenhand.training.resume import Job, Progress, resume, save, take_best
from evenhand.training.schedule import Schedule
from evenhand.training.share import share_of
from evenhand.training.signals import signals_held
from evenhand.training.step import StepResult, train_step
from evenhand.training.tensorfile import start_hashing
from evenhand.training.tracking import tracked_step

# What ends a run beside signals, whose numbers are larger (SIGINT is 2).
_STOPPED = 1
# Keys and numbers of a step, and the step, for trackers.
Log = Callable[[dict[str, float], int], None]


@dataclass(frozen=True, slots=True)
class Validation:
    """What a validator found: the loss that decides early stopping, figures for the journal, and, where the model is
    falling apart, the sign of it in words."""

    loss: float
    record: dict[str, Any]
    collapse: str | None = None


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the loop calls: `validate(policy, step)`, and after each step, on the first rank, `log` as trackers are,
    `report(record, steps)`, and `stop()`, which ends the run there as its plan would have."""

    validate: Callable[[Policy, int], Validation] | None = None
    report: Callable[[dict[str, Any], int], None] | None = None
    log: Log | None = None
    stop: Callable[[], bool] | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: the policy holds the weights of `model_step`, the best validated step or else the last."""

    steps: int
    model_step: int
    stopped_early: bool


@dataclass(slots=True)
class _Run:
    """What the loop holds in its hands."""

    policy: Policy
    optimizer: MasterAdamW
    progress: Progress
    job: Job
    hooks: Hooks
    schedule: Schedule
    epoch_ends: frozenset[int]
    longest: int  # tokens of the longest side of all pairs

    @property
    def out_of_patience(self) -> bool:
        patience = self.job.settings.patience
        return patience is not None and self.progress.without_gain >= patience

    @property
    def at_the_end(self) -> bool:
        return self.progress.step == self.job.plan.steps

    @property
    def validates(self) -> bool:
        """At the end, and between as the recipe says, or after each epoch where it says nothing and counts in epochs."""
        every = self.job.settings.validate_every
        at_epoch = every is None and self.progress.step in self.epoch_ends
        return self.hooks.validate is not None and (self.at_the_end or at_epoch or self.is_due(every))

    def is_due(self, every: int | None) -> bool:
        return every is not None and self.progress.step % every == 0


def run_loop(policy: Policy, job: Job, hooks: Hooks, log: Log) -> Outcome:
    """Train `policy` to the end of the plan, or until validation stops it; resumes from the newest good checkpoint.

    Raises RecipeError where the folder holds another run, NonFiniteError, CollapseError, StorageError, InterruptedRun.
    """
    policy.train()
    run = _begin(policy, job, hooks)
    with signals_held() as received, closing(run.optimizer):
        for number, indices in steps_from(job.plan, run.progress.step):
            if run.out_of_patience:
                break
            result, record = _step(run, number, indices)
            found = _validate(run, record)
            if job.ranks.first:
                _tell(run, result, record, log)
            if found and found.collapse:
                raise CollapseError(_collapse_sentence(run, found.collapse))
            stopped = job.ranks.first and hooks.stop is not None and hooks.stop()
            asked = int(job.ranks.largest(received[0].value if received else _STOPPED if stopped else 0))
            if _must_save(run, bool(asked)):
                save(policy, run.optimizer, run.progress, job)
            if asked > _STOPPED:
                raise InterruptedRun(_interruption_sentence(run, Signals(asked)), asked)
            if asked:
                break
        model_step = take_best(run.optimizer, run.progress, job)
    policy.eval()
    return Outcome(run.progress.step, model_step, not run.at_the_end)


def _begin(policy: Policy, job: Job, hooks: Hooks) -> _Run:
    settings = job.settings
    start_hashing()
    optimizer = MasterAdamW(policy, settings.weight_decay, job.ranks)
    require_room(checkpoints_of(job.folder), sum(master.numel() for master in optimizer.masters))
    schedule = Schedule(settings.schedule, settings.learning_rate, settings.warmup, job.plan.steps)
    progress = resume(policy, optimizer, job)
    progress.token_budget = settings.token_budget or progress.token_budget or _found_budget(policy, optimizer, job)
    ends = epoch_ends(job.plan, settings.epochs) if settings.epochs and settings.steps is None else ()
    longest = int(side_lengths(job.pairs).max())
    return _Run(policy, optimizer, progress, job, hooks, schedule, frozenset(ends), longest)


def _found_budget(policy: Policy, optimizer: MasterAdamW, job: Job) -> int:
    """The least of what the ranks measure; shards cannot be measured by one rank alone."""
    if optimizer.sharded:
        return default_budget(policy.device)
    return -int(job.ranks.largest(-find_budget(policy, job.objective, job.pairs, job.plan)))


def _step(run: _Run, number: int, indices: tuple[int, ...]) -> tuple[StepResult | None, dict[str, Any]]:
    """One optimizer step and its journal record; no result where it was skipped because it was not finite."""
    job, progress = run.job, run.progress
    began = time.perf_counter()
    pairs = [job.pairs[i] for i in indices]
    rate = run.schedule.rate(number)
    before, goal = progress.token_budget, job.goal

    def attempt(budget: int) -> StepResult:
        cut = (budget, job.ranks, run.optimizer.sharded)
        aimed = with_baseline(goal, run.policy, pairs, run.longest, cut)
        rates = (rate, job.settings.max_gradient_norm)
        return train_step(run.policy, aimed, run.optimizer, share_of(pairs, *cut), rates)

    result, said = None, ""
    try:
        result, progress.token_budget = within_memory(pairs, before, attempt, run.optimizer.forget_gradients)
    except NonFiniteError as error:
        said = str(error)
        _skip(run, error)
    progress.step += 1
    progress.pairs += len(indices)
    progress.tokens += result.tokens if result else 0
    progress.seconds += time.perf_counter() - began
    return result, _record(run, result, rate) | budget_note(before, progress.token_budget) | (
        {} if result else {"skipped": said}
    )


def _skip(run: _Run, error: NonFiniteError) -> None:
    """Count a step that is left out, or raise what stopped it where it may not be."""
    settings, progress = run.job.settings, run.progress
    if settings.on_nonfinite == "stop" or not error.data_at_fault:
        raise error
    run.optimizer.forget_gradients()
    progress.skipped += 1
    if progress.skipped > settings.max_skipped:
        raise NonFiniteError(
            f"{progress.skipped} steps were not finite, and `training.max_skipped` is {settings.max_skipped}; at the "
            f"last one, step {progress.step + 1}, {error}"
        )


def _record(run: _Run, result: StepResult | None, rate: float) -> dict[str, Any]:
    progress = run.progress
    names = StepResult.RECORDED + (StepResult.RECORDED_REWARDS if run.job.objective.traits.needs_reference else ())
    found = {} if result is None else {name: getattr(result, name) for name in names}
    measured = {name: value for name, value in found.items() if value is not None}
    return {
        "step": progress.step,
        "epoch": round(progress.pairs / len(run.job.pairs), 6),
        "pairs": progress.pairs,
        "tokens": progress.tokens,
        **measured,
        "learning_rate": rate,
        "token_budget": progress.token_budget,
        "seconds": progress.seconds,
        "pairs_per_second": progress.pairs / progress.seconds,
        "memory_peak_bytes": int(run.job.ranks.largest(memory_peak_bytes(run.policy.device))),
    }


def _validate(run: _Run, record: dict[str, Any]) -> Validation | None:
    """Validate into `record` where it is due."""
    progress = run.progress
    if run.hooks.validate is None or not run.validates:
        return None
    found = run.hooks.validate(run.policy, progress.step)
    run.policy.train()
    if not math.isfinite(found.loss):
        raise NonFiniteError(
            f"the validation loss after step {progress.step} is {found.loss}; the last checkpoint before it is good."
        )
    record["validation"] = {"loss": found.loss, **found.record}
    if found.collapse:
        record["validation"]["collapse"] = found.collapse
    elif progress.is_best(found.loss):
        progress.best_loss, progress.best_step, progress.without_gain = found.loss, progress.step, 0
    else:
        progress.without_gain += 1
    return found


def _tell(run: _Run, result: StepResult | None, record: dict[str, Any], log: Log) -> None:
    append_record(journal_of(run.job.folder), record)
    step = {} if result is None else tracked_step(result, run.job.objective.traits, record["learning_rate"])
    values = step | _eval_keys(record)
    log(values, run.progress.step)
    if run.hooks.log:
        run.hooks.log(values, run.progress.step)
    if run.hooks.report:
        run.hooks.report(record, run.job.plan.steps)


def _must_save(run: _Run, interrupted: bool) -> bool:
    keeps_best = run.job.settings.final_weights == "best"
    best_now = keeps_best and run.progress.best_step == run.progress.step
    ends = run.at_the_end or run.out_of_patience or interrupted
    return ends or best_now or run.is_due(run.job.settings.checkpoint_every)


def _collapse_sentence(run: _Run, sign: str) -> str:
    best = run.progress.best_step
    kept = (
        f"the best checkpoint, of step {best}, is kept in {checkpoints_of(run.job.folder)}"
        if best
        else "no validation before was good"
    )
    return (
        f"stopped after step {run.progress.step}: {sign}; {kept}. A lower `training.learning_rate` or a larger "
        "`objective.sft_weight` is what usually helps; limits are in the recipe's `guard` section."
    )


def _interruption_sentence(run: _Run, received: Signals) -> str:
    return (
        f"stopped by {received.name} after step {run.progress.step} of {run.job.plan.steps}, which is saved in "
        f"{checkpoints_of(run.job.folder)}; the same command goes on from there."
    )


def _eval_keys(record: dict[str, Any]) -> dict[str, float]:
    validation = record.get("validation")
    if validation is None:
        return {}
    keys = {"eval_loss": validation["loss"]}
    accuracy = validation.get("pairwise_accuracy")
    return keys | ({"eval_rewards/accuracies": accuracy["value"]} if accuracy else {})
