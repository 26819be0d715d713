"""What makes two starts the same run, by name, and the refusal of another one."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from evenhand.errors import RecipeError
from evenhand.files import canonical_json, sha256
from evenhand.model.encode import EncodedPair
from evenhand.model.forward import Policy
from evenhand.objectives.simpo import SimPO
from evenhand.training.sections import TrainingSection

# Settings that move time, memory or files, and no number.
FREE = ("keep_checkpoints", "report_to", "checkpoint_every", "checkpoint_activations", "token_budget", "deterministic")


def refuse_other_run(folder: Path, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raise RecipeError naming what differs between the run that `folder` holds and the one that is starting."""
    if changed := sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name)):
        raise RecipeError(
            f"{folder} holds a run with another {', '.join(changed)}; choose another --out, or remove it to start afresh."
        )


def identity_of(
    policy: Policy, pairs: Sequence[EncodedPair], objective: SimPO, training: TrainingSection
) -> dict[str, str]:
    """What must be the same for a run to go on, whoever started it."""
    weights = [[name, list(w.shape)] for name, w in policy.named_parameters() if w.requires_grad]
    tokens = hashlib.sha256()
    for pair in pairs:
        for s in (pair.chosen, pair.rejected):
            tokens.update(f"{pair.group} {s.starts} {len(s.tokens)} ".encode())
            tokens.update(s.tokens.tobytes())
    return {
        "data or order of it": tokens.hexdigest(),
        "objective": sha256(canonical_json(asdict(objective))),
        "training settings": training_hash(training),
        "set of trained weights": sha256(canonical_json(weights)),
        "precision": str(next(policy.parameters()).dtype),
    }


def training_hash(training: TrainingSection) -> str:
    """A hash of the settings that move a number; those that only move time, memory or files are free to change."""
    settings = training.model_dump(mode="json")
    return sha256(canonical_json({key: value for key, value in settings.items() if key not in FREE}))
