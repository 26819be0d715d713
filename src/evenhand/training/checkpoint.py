"""Checkpoints: a folder of safetensors and JSON with a manifest, there whole or not at all; no pickle anywhere."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from evenhand.errors import NoRoomError
from evenhand.files import as_disk_error, existing_parent, sha256_file, storage_error, sync_directory, write_json

MANIFEST = "manifest.json"
# An fp32 master and the two moments of AdamW.
BYTES_PER_WEIGHT = 12


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified checkpoint on disk."""

    folder: Path
    step: int
    state: dict[str, Any]

    def tensors(self) -> dict[str, Tensor]:
        """The optimizer's tensors and the random state, on the CPU."""
        return load_file(self.folder / "state.safetensors")


def save_checkpoint(root: Path, step: int, state: dict[str, Any], tensors: dict[str, Tensor]) -> Path:
    """Write `step-NNNNNN` under `root`: staged, synced, renamed. Raises StorageError when the disk fails or is full."""
    folder = root / f"step-{step:06d}"
    staging = root / f".staging-{os.getpid()}"
    size = sum(tensor.nbytes for tensor in tensors.values())
    try:
        for stale in root.glob(".staging-*"):  # what a killed save left behind
            shutil.rmtree(stale, ignore_errors=True)
        staging.mkdir(parents=True)
        as_disk_error(lambda: save_file({k: v.contiguous() for k, v in tensors.items()}, staging / "state.safetensors"))
        write_json(staging / "state.json", {"step": step, **state})
        files = {file.name: _described(file) for file in sorted(staging.iterdir())}
        write_json(staging / MANIFEST, {"step": step, "files": files})
        for name in files:
            _sync(staging / name)
        sync_directory(staging)
        if folder.exists():
            shutil.rmtree(folder)
        staging.rename(folder)
        sync_directory(root)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise storage_error(error, folder, size) from error
    return folder


def newest_checkpoint(root: Path) -> Checkpoint | None:
    """The newest checkpoint whose files are what its manifest says; None where there is none to trust."""
    for folder in sorted(root.glob("step-*"), reverse=True):
        if (checkpoint := verify_checkpoint(folder)) is not None:
            return checkpoint
    return None


def verify_checkpoint(folder: Path) -> Checkpoint | None:
    """The checkpoint in `folder`, or None where a file is missing, added or changed."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        named = {MANIFEST, *manifest["files"]}
        if {file.name for file in folder.iterdir()} != named:
            return None
        if any(_described(folder / name) != wanted for name, wanted in manifest["files"].items()):
            return None
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        if folder.name != f"step-{state['step']:06d}" or manifest["step"] != state["step"]:
            return None
        return Checkpoint(folder, state["step"], state)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def set_aside_newer(root: Path, step: int) -> None:
    """Take every checkpoint after `step` out of the way: it is damaged, or it would have been resumed from."""
    for folder in root.glob("step-*"):
        if folder.name > f"step-{step:06d}":
            aside = root / f"damaged-{folder.name}"
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)


def drop_old(root: Path, keep: int, best_step: int | None) -> None:
    """Remove all but the newest `keep` checkpoints and the best; called only after a newer one is safe."""
    folders = sorted(root.glob("step-*"), reverse=True)
    for folder in folders[keep:]:
        if best_step is None or folder.name != f"step-{best_step:06d}":
            shutil.rmtree(folder)


def require_room(root: Path, trained_weights: int) -> None:
    """Raise NoRoomError where two checkpoints of that many weights would not fit beside what is there."""
    parent = existing_parent(root)
    free, needed = shutil.disk_usage(parent).free, 2 * trained_weights * BYTES_PER_WEIGHT
    if free < needed:
        raise NoRoomError(
            f"{parent} has {free} bytes free and two checkpoints need {needed}; free some space or choose another --out."
        )


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The state of torch's generators, as byte tensors."""
    state = {"random.cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["random.cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(tensors: dict[str, Tensor], device: torch.device) -> None:
    """Set torch's generators back to what `random_state` gave."""
    torch.set_rng_state(tensors["random.cpu"])
    if device.type == "cuda" and "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"], device)


def _described(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": sha256_file(file)}


def _sync(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
