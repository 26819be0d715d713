"""`train`: from a model a person holds, or inside a run, to the trained policy; no file is read here."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evenhand.data.read import read_pairs
from evenhand.data.schema import PreferencePair
from evenhand.errors import ModelError
from evenhand.files import held
from evenhand.model.adapter import Adapter, attach
from evenhand.model.encode import EncodedPair, require_pairs
from evenhand.model.forward import Policy, require_positions
from evenhand.model.modes import Form
from evenhand.model.reference import AdapterOff, Reference
from evenhand.model.workshop import Workshop
from evenhand.objectives.objective import Objective
from evenhand.training import recompute
from evenhand.training.determinism import determinism, fix_workspace
from evenhand.training.examples import examples_of
from evenhand.training.identity import MACHINE, adapter_identity, identity_of, refuse_unknown, start_identity
from evenhand.training.loop import Hooks, Log, Outcome, run_loop
from evenhand.training.plan import make_plan
from evenhand.training.ranks import launched_ranks, ranks_joined
from evenhand.training.resume import Job, seed_rank
from evenhand.training.sections import TrainingSection
from evenhand.training.shard import is_sharded, make_whole, shard
from evenhand.training.tracking import open_accelerator

Training = TrainingSection


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run writes: its folder, its name for trackers, its settings for them, what must not change between two
    starts, and what of it may all the same."""

    folder: Path
    name: str = "evenhand"
    config: Mapping[str, Any] = field(default_factory=dict)
    identity: Mapping[str, str] = field(default_factory=dict)
    allowed: tuple[str, ...] = ()


def train(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    data: str | Path | Sequence[PreferencePair],
    objective: Objective,
    training: TrainingSection,
    *,
    adapter: Adapter | None = None,
    form: Form | None = None,
    folder: str | Path | None = None,
    allowed: tuple[str, ...] = (),
    reference: Reference | None = None,
) -> PreTrainedModel | PeftModel:
    """Train `model` on `data` (a file, or pairs) and return it, ready to use: with `adapter`, wrapped by PEFT.

    Without `adapter` every weight that requires a gradient is trained. An objective that compares with the starting model
    gets it by switching the adapter off, or from `reference`. `form` says how pairs become tokens; left out
    it is the chat template and at most 2048 tokens. With `folder`, tokens, journal and checkpoints are kept there, and a
    second call with the same starting model resumes; another model or adapter, other data, settings or precision are
    refused by name unless `allowed` names them. Raises DataError, TemplateError, RecipeError, NonFiniteError.
    """
    with TemporaryDirectory() as scratch:
        home = Path(folder) if folder is not None else Path(scratch)
        encoded = _encoded(data, Workshop(tokenizer, form or Form(max_tokens=2048), home / "tokens"))
        examples = examples_of(encoded, objective.traits.examples)
        start = start_identity(model) if folder is not None else {}  # before it is given an adapter
        policy = make_policy(model, adapter, training)
        place = Place(home, identity=start | adapter_identity(policy.model), allowed=allowed)
        try:
            if objective.traits.needs_reference and reference is None:
                reference = AdapterOff(policy)
            place.folder.mkdir(parents=True, exist_ok=True)
            with held(place.folder) if launched_ranks().first else nullcontext():
                train_policy(policy, (examples, objective, training), place, Hooks(), reference)
        finally:
            policy.release()
    return policy.model


def _encoded(data: str | Path | Sequence[PreferencePair], workshop: Workshop) -> Sequence[EncodedPair]:
    name = str(data) if isinstance(data, (str, Path)) else "the pairs given"
    pairs = read_pairs(data)[1] if isinstance(data, (str, Path)) else data
    return require_pairs(workshop.encode(pairs, "train", name), name)


def make_policy(model: PreTrainedModel | PeftModel, adapter: Adapter | None, training: TrainingSection) -> Policy:
    """The policy to train: the seed is set, the adapter attached, activations checkpointed where asked."""
    torch.manual_seed(training.seed)
    if any(weight.dtype == torch.float16 for weight in model.parameters()):
        raise ModelError("the model is in float16, where small gradients vanish; load it in bfloat16 or float32.")
    wrapped = attach(model, adapter) if adapter is not None else model
    if training.checkpoint_activations:
        recompute.enable(wrapped)
    fix_workspace(training.deterministic, next(wrapped.parameters()).device)
    return Policy(wrapped)


def train_policy(
    policy: Policy,
    work: tuple[Sequence[EncodedPair], Objective, TrainingSection],
    place: Place,
    hooks: Hooks,
    reference: Reference | None = None,
) -> Outcome:
    """Run the loop in `place` with all ranks; the policy ends with the best validated weights, whole on each of them.

    `reference` scores the starting model, for an objective that compares with it.
    """
    pairs, objective, training = work
    require_positions(policy, pairs)
    plan = make_plan(pairs, training.batch_pairs, training.seed, (training.steps, training.epochs))
    identity = {**place.identity, **identity_of(policy, pairs, objective, training)}
    refuse_unknown(place.allowed, [*identity, *MACHINE])
    with ranks_joined() as ranks, threads_kept():
        seed_rank(training.seed, ranks)
        if is_sharded(training, ranks):
            shard(policy, ranks)
        job = Job(pairs, objective, plan, training, place.folder, identity, place.allowed, ranks, reference)
        same_bits = determinism(training.deterministic, policy.device)
        with same_bits, trackers(training.report_to, place, ranks.first) as log:
            outcome = run_loop(policy, job, hooks, log)
        make_whole(policy)
        return outcome


@contextmanager
def threads_kept() -> Iterator[None]:
    """The number of threads is the caller's again at the end."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def trackers(names: tuple[str, ...], place: Place, first: bool) -> Iterator[Log]:
    """Where steps are logged: the trackers of the recipe on rank 0, nowhere on the others."""
    if not names or not first:
        yield lambda *_: None
        return
    with redirect_stdout(sys.stderr):  # trackers print words, and stdout is for results
        accelerator = open_accelerator(names, place.folder, place.name, dict(place.config))
        try:
            yield lambda values, step: accelerator.log(values, step=step)
        finally:
            accelerator.end_training()
