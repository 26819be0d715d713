"""The one loop of every offline method: step, journal, validation, checkpoint; it resumes by itself."""

import math
import resource
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator

from evenhand.errors import InterruptedRun, NonFiniteError, RecipeError
from evenhand.files import write_whole
from evenhand.model.encode import EncodedPair
from evenhand.model.forward import Policy
from evenhand.objectives.simpo import SimPO
from evenhand.training.checkpoint import (
    Checkpoint,
    drop_old,
    newest_checkpoint,
    random_state,
    require_room,
    restore_random_state,
    save_checkpoint,
    set_aside_newer,
    verify_checkpoint,
)
from evenhand.training.identity import refuse_other_run
from evenhand.training.journal import append_record, journal_text, read_journal
from evenhand.training.optim import MasterAdamW
from evenhand.training.plan import Plan, micro_batches, steps_from
from evenhand.training.schedule import Schedule
from evenhand.training.sections import TrainingSection
from evenhand.training.step import StepResult, train_step
from evenhand.training.tracking import tracked_step

# fp32 on a CPU is fastest where a micro-batch's activations stay near the caches; a GPU wants long ones.
CPU_TOKEN_BUDGET, GPU_TOKEN_BUDGET = 4096, 16384


@dataclass(frozen=True, slots=True)
class Validation:
    """What a validator found: the loss that decides early stopping, and figures for the journal."""

    loss: float
    record: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the loop calls: `validate(policy, step)`, and `report(record, steps)` after each step."""

    validate: Callable[[Policy, int], Validation] | None = None
    report: Callable[[dict[str, Any], int], None] | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """What to train and where; `identity` names everything that must be the same when a run resumes."""

    pairs: Sequence[EncodedPair]
    objective: SimPO
    plan: Plan
    settings: TrainingSection
    folder: Path
    identity: dict[str, str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: the policy holds the weights of `model_step`, the best validated step or else the last."""

    steps: int
    model_step: int
    stopped_early: bool


@dataclass(slots=True)
class _Progress:
    """What a checkpoint remembers beside tensors."""

    step: int = 0
    pairs: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_loss: float = math.inf
    best_step: int | None = None
    without_gain: int = 0

    def state(self, identity: dict[str, str]) -> dict[str, Any]:
        best = None if math.isinf(self.best_loss) else self.best_loss
        return {
            "pairs": self.pairs,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "best_loss": best,
            "best_step": self.best_step,
            "without_gain": self.without_gain,
            "identity": identity,
        }


def run_loop(policy: Policy, job: Job, hooks: Hooks, accelerator: Accelerator) -> Outcome:
    """Train `policy` to the end of the plan, or until validation stops it; resumes from the newest good checkpoint.

    Raises RecipeError where the folder holds another run, NonFiniteError, StorageError, InterruptedRun.
    """
    settings, root = job.settings, job.folder / "checkpoints"
    optimizer = MasterAdamW(policy, settings.weight_decay)
    require_room(root, sum(master.numel() for master in optimizer.masters))
    progress = _resume(policy, optimizer, job)
    schedule = Schedule(settings.schedule, settings.learning_rate, settings.warmup, job.plan.steps)
    budget = budget_for(settings, policy.device)
    stopped = progress.without_gain >= settings.patience if settings.patience else False
    policy.train()
    with signals_held() as received, closing(optimizer):
        for number, indices in steps_from(job.plan, progress.step):
            if stopped:
                break
            began = time.perf_counter()
            micro = micro_batches([job.pairs[i] for i in indices], budget)[0]
            rate = schedule.rate(number)
            result = train_step(policy, job.objective, optimizer, micro, (rate, settings.max_gradient_norm))
            _advance(progress, result, time.perf_counter() - began)
            record = _record(progress, result, rate, policy.device)
            last = progress.step == job.plan.steps
            if hooks.validate and (last or _due(progress.step, settings.validate_every)):
                stopped = _validate(policy, hooks, progress, record, settings.patience)
            append_record(job.folder / "journal.jsonl", record)
            accelerator.log(tracked_step(result, job.objective.beta, rate) | _eval_keys(record), step=progress.step)
            if hooks.report:
                hooks.report(record, job.plan.steps)
            best_now = progress.best_step == progress.step
            if last or stopped or best_now or received or _due(progress.step, settings.checkpoint_every):
                _save(policy, optimizer, progress, job)
            if received:
                raise InterruptedRun(
                    f"stopped by {received[0].name} after step {progress.step} of {job.plan.steps}, which is saved in "
                    f"{root}; the same command goes on from there.",
                    received[0].value,
                )
    model_step = _take_best(optimizer, progress, root)
    policy.eval()
    return Outcome(progress.step, model_step, stopped and progress.step < job.plan.steps)


def budget_for(settings: TrainingSection, device: torch.device) -> int:
    """Tokens of a micro-batch: the recipe's, else what suits the device."""
    return settings.token_budget or (CPU_TOKEN_BUDGET if device.type == "cpu" else GPU_TOKEN_BUDGET)


def _resume(policy: Policy, optimizer: MasterAdamW, job: Job) -> _Progress:
    journal = job.folder / "journal.jsonl"
    checkpoint = newest_checkpoint(job.folder / "checkpoints")
    if checkpoint is None:
        if any((job.folder / "checkpoints").glob("step-*")):
            raise RecipeError(
                f"{job.folder / 'checkpoints'}: no checkpoint is whole; remove the folder to start afresh."
            )
        write_whole(journal, "")
        return _Progress()
    refuse_other_run(job.folder, checkpoint.state["identity"], job.identity)
    _restore(policy, optimizer, checkpoint)
    set_aside_newer(job.folder / "checkpoints", checkpoint.step)
    records = [record for record in read_journal(journal) if record["step"] <= checkpoint.step]
    write_whole(journal, journal_text(records))
    kept = {key: checkpoint.state[key] for key in ("pairs", "tokens", "seconds", "best_step", "without_gain")}
    best = checkpoint.state["best_loss"]
    return _Progress(step=checkpoint.step, best_loss=math.inf if best is None else best, **kept)


def _restore(policy: Policy, optimizer: MasterAdamW, checkpoint: Checkpoint) -> None:
    tensors = checkpoint.tensors()
    optimizer.restore(tensors)
    restore_random_state(tensors, policy.device)


def _save(policy: Policy, optimizer: MasterAdamW, progress: _Progress, job: Job) -> None:
    tensors = {name: tensor.detach().cpu() for name, tensor in optimizer.tensors()}
    if broken := [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]:
        raise NonFiniteError(
            f"{broken[0]} is not finite after step {progress.step}; the last checkpoint before it is good."
        )
    root = job.folder / "checkpoints"
    save_checkpoint(root, progress.step, progress.state(job.identity), tensors | random_state(policy.device))
    drop_old(root, job.settings.keep_checkpoints, progress.best_step)


def _take_best(optimizer: MasterAdamW, progress: _Progress, root: Path) -> int:
    if progress.best_step is None or progress.best_step == progress.step:
        return progress.step
    checkpoint = verify_checkpoint(root / f"step-{progress.best_step:06d}")
    if checkpoint is None:
        raise RecipeError(
            f"{root}: the best checkpoint, of step {progress.best_step}, is damaged; train again in another --out."
        )
    optimizer.restore(checkpoint.tensors())
    return progress.best_step


def _advance(progress: _Progress, result: StepResult, seconds: float) -> None:
    progress.step += 1
    progress.pairs += result.pairs
    progress.tokens += result.tokens
    progress.seconds += seconds


def _record(progress: _Progress, result: StepResult, rate: float, device: torch.device) -> dict[str, Any]:
    seconds = progress.seconds
    return {
        "step": progress.step,
        "pairs": progress.pairs,
        "tokens": progress.tokens,
        "loss": result.loss,
        "accuracy": result.accuracy,
        "gap": result.gap,
        "chosen_mean": result.chosen_mean,
        "rejected_mean": result.rejected_mean,
        "learning_rate": rate,
        "gradient_norm": result.gradient_norm,
        "seconds": seconds,
        "pairs_per_second": progress.pairs / seconds,
        "memory_peak_bytes": memory_peak_bytes(device),
    }


def _validate(policy: Policy, hooks: Hooks, progress: _Progress, record: dict[str, Any], patience: int | None) -> bool:
    """Validate into `record`; True where patience has run out."""
    assert hooks.validate is not None
    found = hooks.validate(policy, progress.step)
    policy.train()
    if not math.isfinite(found.loss):
        raise NonFiniteError(
            f"the validation loss after step {progress.step} is {found.loss}; the last checkpoint before it is good."
        )
    record["validation"] = {"loss": found.loss, **found.record}
    if found.loss < progress.best_loss:
        progress.best_loss, progress.best_step, progress.without_gain = found.loss, progress.step, 0
    else:
        progress.without_gain += 1
    return patience is not None and progress.without_gain >= patience


def _eval_keys(record: dict[str, Any]) -> dict[str, float]:
    validation = record.get("validation")
    if validation is None:
        return {}
    keys = {"eval_loss": validation["loss"]}
    accuracy = validation.get("pairwise_accuracy")
    return keys | ({"eval_rewards/accuracies": accuracy["value"]} if accuracy else {})


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def memory_peak_bytes(device: torch.device) -> int:
    """The most memory this process has held: on the GPU if there is one, else resident in the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def signals_held() -> Iterator[list[signal.Signals]]:
    """Collect SIGINT and SIGTERM instead of dying; a second one of a kind stops at once."""
    received: list[signal.Signals] = []

    def note(number: int, _: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(signal.Signals(number))

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: whoever owns it owns the signals
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
