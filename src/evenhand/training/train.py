"""`train`: from a model a person holds, or inside a run, to the trained policy; no file is read here."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
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
from evenhand.model.encode import EncodedPair, encode_pairs, require_pairs
from evenhand.model.forward import Policy, require_positions
from evenhand.model.modes import Form, encoder_for
from evenhand.objectives.simpo import SimPO
from evenhand.training import recompute
from evenhand.training.determinism import determinism
from evenhand.training.identity import identity_of
from evenhand.training.loop import Hooks, Job, Outcome, run_loop
from evenhand.training.plan import make_plan
from evenhand.training.sections import TrainingSection
from evenhand.training.tracking import open_accelerator

Training = TrainingSection


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run writes: its folder, its name for trackers, its settings for them, and what must not change."""

    folder: Path
    name: str = "evenhand"
    config: Mapping[str, Any] = field(default_factory=dict)
    identity: Mapping[str, str] = field(default_factory=dict)


def train(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    data: str | Path | Sequence[PreferencePair],
    objective: SimPO,
    training: TrainingSection,
    *,
    adapter: Adapter | None = None,
    form: Form | None = None,
    folder: str | Path | None = None,
) -> PreTrainedModel | PeftModel:
    """Train `model` on `data` (a file, or pairs) and return it, ready to use: with `adapter`, wrapped by PEFT.

    Without `adapter` every weight that requires a gradient is trained. `form` says how pairs become tokens; left out
    it is the chat template and at most 2048 tokens. With `folder`, journal and checkpoints are kept there, and a
    second call with the same starting model resumes; other data, settings or precision are refused by name. Raises
    DataError, TemplateError, RecipeError, NonFiniteError.
    """
    form = form or Form(max_tokens=2048)
    pairs = read_pairs(data)[1] if isinstance(data, (str, Path)) else tuple(data)
    name = str(data) if isinstance(data, (str, Path)) else "the pairs given"
    encoded = require_pairs(encode_pairs(pairs, encoder_for(tokenizer, form), form.limits, name), name)
    policy = make_policy(model, adapter, training)
    try:
        with TemporaryDirectory() as scratch:
            place = Place(Path(folder) if folder is not None else Path(scratch))
            place.folder.mkdir(parents=True, exist_ok=True)
            with held(place.folder):
                train_policy(policy, (encoded, objective, training), place, Hooks())
    finally:
        policy.release()
    return policy.model


def make_policy(model: PreTrainedModel | PeftModel, adapter: Adapter | None, training: TrainingSection) -> Policy:
    """The policy to train: the seed is set, the adapter attached, activations checkpointed where asked."""
    torch.manual_seed(training.seed)
    if any(weight.dtype == torch.float16 for weight in model.parameters()):
        raise ModelError("the model is in float16, where small gradients vanish; load it in bfloat16 or float32.")
    wrapped = attach(model, adapter) if adapter is not None else model
    if training.checkpoint_activations:
        recompute.enable(wrapped)
    return Policy(wrapped)


def train_policy(
    policy: Policy, work: tuple[Sequence[EncodedPair], SimPO, TrainingSection], place: Place, hooks: Hooks
) -> Outcome:
    """Run the loop in `place`; the policy ends with the best validated weights."""
    pairs, objective, training = work
    require_positions(policy, pairs)
    plan = make_plan(pairs, training.batch_pairs, training.seed, (training.steps, training.epochs))
    identity = {**place.identity, **identity_of(policy, pairs, objective, training)}
    job = Job(pairs, objective, plan, training, place.folder, identity)
    same_bits = determinism(training.deterministic, policy.device)
    with same_bits, redirect_stdout(sys.stderr):  # trackers print words, and stdout is for results
        accelerator = open_accelerator(training.report_to, place.folder, place.name, dict(place.config))
        try:
            return run_loop(policy, job, hooks, accelerator)
        finally:
            accelerator.end_training()
