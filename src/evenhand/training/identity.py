"""What makes two starts the same run, by name, and the refusal of another one."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

import evenhand
from evenhand.errors import RecipeError
from evenhand.files import canonical_json, sha256, sha256_file
from evenhand.model.adapter import is_fresh
from evenhand.model.encode import EncodedPair
from evenhand.model.forward import Policy, causal
from evenhand.model.store import tokens_hash
from evenhand.objectives.objective import Objective
from evenhand.training.sections import TrainingSection

Identity = Mapping[str, str]

# Settings that move time, memory or files, and no number.
FREE = frozenset(
    {
        *("training.keep_checkpoints", "training.report_to", "training.checkpoint_every", "training.parallel"),
        *("training.checkpoint_activations", "training.token_budget", "training.on_nonfinite", "training.max_skipped"),
        "training.deterministic",
    }
)
# What the tensors of a checkpoint have to fit: nobody can allow another one.
FIXED = ("weights",)
# What a run computes with: it matters to one that goes on, and not to one that is done.
MACHINE = ("code", "threads", "world_size")
# What a model's or an adapter's configuration says of files, versions and precision, which have names of their own.
_UNTOLD = frozenset(
    {
        *("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache"),
        *("base_model_name_or_path", "revision", "peft_version", "inference_mode", "auto_mapping"),
    }
)
_COMPUTING_ROOMS = ("model", "objectives", "training")
_COMPUTING_PACKAGES = ("torch", "transformers", "peft")
_SHORT = 40


def refuse_other_run(folder: Path, before: Identity, now: Identity, allowed: Iterable[str] = ()) -> list[str]:
    """The names that differ between the run that `folder` holds and the one that is starting, all of them allowed.

    An allowed name stands for itself and for every name below it: `training` for `training.learning_rate`. Raises
    RecipeError for any other that differs, with both values where they are short.
    """
    changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    refused = [name for name in changed if name in FIXED or not _is_allowed(name, allowed)]
    if not refused:
        return changed
    said = ", ".join(_difference(name, before.get(name), now.get(name)) for name in refused)
    cure = "" if set(refused) & set(FIXED) else f", allow it with {' '.join(f'--allow-change {n}' for n in refused)}"
    raise RecipeError(
        f"{folder} holds a run with another {said}; choose another --out{cure}, or remove it to start afresh."
    )


def refuse_unknown(allowed: Iterable[str], known: Iterable[str]) -> None:
    """Raise RecipeError for an allowed name that names nothing a run has."""
    names = sorted(known)
    for name in allowed:
        if not any(_is_allowed(own, (name,)) for own in names):
            raise RecipeError(f"--allow-change {name}: a run has no such name; it has {', '.join(names)}.")


def identity_of(
    policy: Policy, pairs: Sequence[EncodedPair], objective: Objective, training: TrainingSection
) -> dict[str, str]:
    """What must be the same for a run to go on, whoever started it; `tokens` covers the pairs and their order."""
    return {
        "tokens": tokens_hash(pairs),
        **settings_by_name("objective", asdict(objective)),
        **settings_by_name("training", training.model_dump(mode="json")),
        **policy_identity(policy),
    }


def policy_identity(policy: nn.Module, *rooms: str) -> dict[str, str]:
    """What is trained, in which precision, and by which code; `rooms` hold more of it than every method uses."""
    weights = [[name, list(w.shape)] for name, w in policy.named_parameters() if w.requires_grad]
    return {
        "weights": sha256(canonical_json(weights)),
        "precision": str(next(policy.parameters()).dtype).removeprefix("torch."),
        "code": code_hash(*rooms),
    }


def start_identity(model: PreTrainedModel | PeftModel) -> dict[str, str]:
    """What a run starts from: one hash of the weights and the configuration of `model`, before it gets an adapter.

    Of one that has an adapter which adds nothing yet the base alone counts: checkpoints keep how the adapter was drawn.
    """
    config = json.loads(causal(model).config.to_json_string(use_diff=False))
    fresh = is_fresh(model)
    named = {
        id(weight): (name, weight)  # a tied weight once
        for name, weight in model.state_dict(keep_vars=True).items()
        if isinstance(weight, Tensor) and not (fresh and "lora_" in name)
    }
    with ThreadPoolExecutor(min(4, len(os.sched_getaffinity(0)))) as pool:
        weights = list(pool.map(_weight_hash, named.values()))
    told = {name: value for name, value in config.items() if name not in _UNTOLD}
    return {"model": sha256(canonical_json([told, weights]))}


def adapter_identity(model: nn.Module) -> dict[str, str]:
    """The settings of the adapter on `model`, under PEFT's names; nothing where there is none."""
    if not isinstance(model, PeftModel):
        return {}
    settings = model.active_peft_config.to_dict()
    told = {k: v for k, v in settings.items() if v is not None and k not in _UNTOLD and not k.startswith("_")}
    plain = json.dumps(told, default=lambda value: sorted(value) if isinstance(value, set) else str(value))
    return settings_by_name("adapter", json.loads(plain))


def settings_by_name(section: str, settings: Mapping[str, Any]) -> dict[str, str]:
    """Each setting that moves a number, as `section.key` with its value as JSON; nested ones as `section.key.key`."""
    named: dict[str, str] = {}
    for key, value in settings.items():
        name = f"{section}.{key}"
        if isinstance(value, dict):
            named |= settings_by_name(name, value)
        elif name not in FREE:
            named[name] = json.dumps(value, sort_keys=True)
    return named


@cache
def code_hash(*others: str) -> str:
    """One hash of the source that computes numbers, in the rooms of every method and in `others`, and of the libraries
    it computes with."""
    root = Path(evenhand.__file__).parent
    files = sorted(file for room in (*_COMPUTING_ROOMS, *others) for file in (root / room).glob("*.py"))
    parts = [[str(file.relative_to(root)), sha256_file(file)] for file in files]
    return sha256(canonical_json([*parts, *([name, version(name)] for name in _COMPUTING_PACKAGES)]))


def _weight_hash(named: tuple[str, Tensor]) -> list[Any]:
    """Name, dtype, shape and BLAKE2b, which without instructions for SHA-256 takes less than half of its time.

    A weight on another device is on the CPU no longer than this takes.
    """
    name, weight = named
    content = weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return [name, str(weight.dtype), list(weight.shape), hashlib.blake2b(content.data, digest_size=32).hexdigest()]


def _is_allowed(name: str, allowed: Iterable[str]) -> bool:
    return any(name == own or name.startswith(f"{own}.") for own in allowed)


def _difference(name: str, before: str | None, now: str | None) -> str:
    values = [value if value is not None else "absent" for value in (before, now)]
    return name if any(len(value) > _SHORT for value in values) else f"{name} ({values[0]}, now {values[1]})"
