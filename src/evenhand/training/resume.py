"""Where a run is, how it is saved, and how it goes on from there with the same bits."""

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from evenhand.errors import NonFiniteError, RecipeError
from evenhand.files import write_whole
from evenhand.model.encode import EncodedPair
from evenhand.model.forward import Policy
from evenhand.model.reference import Reference
from evenhand.objectives.objective import Objective
from evenhand.training.checkpoint import (
    Checkpoint,
    Writer,
    checkpoints_of,
    drop_old,
    newest_checkpoint,
    open_checkpoint,
    random_state,
    restore_random_state,
    save_checkpoint,
    set_aside_newer,
    verify_checkpoint,
)
from evenhand.training.goal import Goal
from evenhand.training.identity import refuse_other_run
from evenhand.training.journal import journal_of, journal_text, read_journal
from evenhand.training.optim import MasterAdamW
from evenhand.training.plan import Plan
from evenhand.training.ranks import Ranks
from evenhand.training.sections import TrainingSection


class Kept(Protocol):
    """What keeping and resuming a run needs to know of it; a Job, or the practice of a method that samples."""

    @property
    def settings(self) -> TrainingSection:
        """The loop's settings."""
        ...

    @property
    def folder(self) -> Path:
        """The run folder."""
        ...

    @property
    def identity(self) -> dict[str, str]:
        """What must be the same when the run resumes."""
        ...

    @property
    def allowed(self) -> tuple[str, ...]:
        """What may differ all the same."""
        ...

    @property
    def ranks(self) -> Ranks:
        """The processes that train together."""
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """What to train and where. `identity` names everything that must be the same when a run resumes, but for what
    `allowed` names; `ranks` are the processes that train together, `reference` is what some objectives compare with."""

    pairs: Sequence[EncodedPair]
    objective: Objective
    plan: Plan
    settings: TrainingSection
    folder: Path
    identity: dict[str, str]
    allowed: tuple[str, ...] = ()
    ranks: Ranks = field(default_factory=Ranks)
    reference: Reference | None = None

    @property
    def goal(self) -> Goal:
        """What each step makes smaller."""
        return Goal(self.objective, self.reference)


@dataclass(slots=True)
class Progress:
    """What a checkpoint remembers beside tensors. `token_budget` is 0 until one is found, `parent_step` is the checkpoint
    that this one goes on from, `skipped` counts steps that were not finite, `changes` tells which allowed names changed,
    and before which step."""

    step: int = 0
    pairs: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_loss: float | None = None
    best_step: int | None = None
    without_gain: int = 0
    skipped: int = 0
    token_budget: int = 0
    parent_step: int | None = None
    changes: list[dict[str, Any]] = field(default_factory=list)

    def is_best(self, loss: float) -> bool:
        """Whether `loss` is lower than all before it."""
        return loss < (math.inf if self.best_loss is None else self.best_loss)


def resume(policy: Policy, optimizer: MasterAdamW, job: Kept) -> Progress:
    """Go on from the newest checkpoint that verifies: weights, optimizer, random state, journal, threads.

    Raises RecipeError where the folder holds another run, where no checkpoint of several is whole, and where the ranks
    were not started alike.
    """
    checkpoint = _agreed_checkpoint(job)
    pin_threads(None if checkpoint is None else checkpoint.run.get("threads"), policy.device)
    _refuse_unlike_ranks(job)
    if checkpoint is None:
        if job.ranks.first:
            write_whole(journal_of(job.folder), "")
        return Progress()
    now = job.identity | machine_identity(job.ranks)
    changed = refuse_other_run(job.folder, checkpoint.run, now, job.allowed)
    progress = Progress(**{key: value for key, value in checkpoint.state.items() if key in Progress.__slots__})
    progress.parent_step = checkpoint.step
    if changed:
        said = {name: [checkpoint.run.get(name), now.get(name)] for name in changed}
        progress.changes.append({"after_step": checkpoint.step, "changed": said})
    tensors = checkpoint.tensors()
    optimizer.restore(tensors)
    if not restore_random_state(tensors, policy.device, job.ranks.rank):
        seed_rank(job.settings.seed + checkpoint.step, job.ranks)  # a rank that was not there before
    if job.ranks.first:
        set_aside_newer(checkpoints_of(job.folder), checkpoint.step)
        records = [record for record in read_journal(journal_of(job.folder)) if record["step"] <= checkpoint.step]
        write_whole(journal_of(job.folder), journal_text(records))
    job.ranks.wait()
    return progress


def save(policy: Policy, optimizer: MasterAdamW, progress: Progress, job: Kept) -> None:
    """Keep everything; what is older goes only when this is safe. Raises NonFiniteError before anything is written."""
    tensors = {name: tensor.detach().cpu() for name, tensor in optimizer.tensors()}
    # The largest magnitude is NaN or infinite where any element is, and needs no tensor of its own.
    broken = [
        name for name, t in tensors.items() if t.numel() and not math.isfinite(float(t.aminmax()[1] - t.aminmax()[0]))
    ]
    if found := [name for names in job.ranks.gather(broken[:1]) for name in names]:
        raise NonFiniteError(
            f"{found[0]} is not finite after step {progress.step}; the last checkpoint before it is good."
        )
    random = random_state(policy.device, job.ranks)
    writer = Writer(job.identity | machine_identity(job.ranks), job.ranks, optimizer.sharded)
    state = asdict(progress)
    del state["step"]
    save_checkpoint(
        checkpoints_of(job.folder), progress.step, state, tensors | (random if job.ranks.first else {}), writer
    )
    progress.parent_step = progress.step
    if job.ranks.first:
        drop_old(checkpoints_of(job.folder), job.settings.keep_checkpoints, progress.best_step)


def take_best(optimizer: MasterAdamW, progress: Progress, job: Kept) -> int:
    """Give the policy the weights of the best validated step, or leave it the last; returns the step."""
    if job.settings.final_weights == "last" or progress.best_step in (None, progress.step):
        return progress.step
    folder = checkpoints_of(job.folder) / f"step-{progress.best_step:06d}"
    if not job.ranks.from_first(job.ranks.first and verify_checkpoint(folder) is not None):
        raise RecipeError(
            f"{checkpoints_of(job.folder)}: the best checkpoint, of step {progress.best_step}, is damaged; train again in another --out."
        )
    optimizer.restore(open_checkpoint(folder).tensors())
    return progress.best_step


def machine_identity(ranks: Ranks) -> dict[str, str]:
    """What the run computes with, beside its code."""
    return {"threads": str(torch.get_num_threads()), "world_size": str(ranks.size)}


def pin_threads(recorded: str | None, device: torch.device) -> None:
    """Compute with as many threads as the run did so far, unless the user says how many: sums depend on it."""
    if recorded is not None and device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(int(recorded))


def seed_rank(seed: int, ranks: Ranks) -> None:
    """Random numbers of this rank's own, for dropout; rank 0 goes on with what it has."""
    if not ranks.first:
        torch.manual_seed((seed + 1_000_003 * ranks.rank) % 2**63)


def _agreed_checkpoint(job: Kept) -> Checkpoint | None:
    """The checkpoint that rank 0 trusts, on every rank."""
    found = newest_checkpoint(checkpoints_of(job.folder)) if job.ranks.first else None
    name = job.ranks.from_first(None if found is None else found.folder.name)
    if name is not None:
        return found or open_checkpoint(checkpoints_of(job.folder) / name)
    if job.ranks.from_first(any(checkpoints_of(job.folder).glob("step-*"))):
        raise RecipeError(f"{checkpoints_of(job.folder)}: no checkpoint is whole; remove the folder to start afresh.")
    return None


def _refuse_unlike_ranks(job: Kept) -> None:
    for rank, identity in enumerate(job.ranks.gather(job.identity | machine_identity(job.ranks))):
        if different := [name for name, value in job.identity.items() if identity.get(name) != value]:
            raise RecipeError(
                f"rank {rank} was started with another {', '.join(different)} than rank {job.ranks.rank}; start all "
                "ranks with the same recipe, data, code and number of threads."
            )
