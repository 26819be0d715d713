"""Checkpoints: a folder of safetensors and JSON with a manifest, there whole or not at all; no pickle anywhere."""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from evenhand.errors import NoRoomError
from evenhand.files import (
    canonical_json,
    existing_parent,
    sha256,
    sha256_file,
    storage_error,
    sync_directory,
    write_json,
)
from evenhand.training.ranks import Ranks
from evenhand.training.tensorfile import write_tensors

MANIFEST = "manifest.json"
# An fp32 master and the two moments of AdamW.
BYTES_PER_WEIGHT = 12


class SavedTensors(Mapping[str, Tensor]):
    """The tensors of a checkpoint, read from disk one at a time; one that ranks wrote in parts comes back whole."""

    def __init__(self, folder: Path) -> None:
        self._places: dict[str, list[Any]] = {}
        for path in sorted(folder.glob("state*.safetensors")):
            file = safe_open(path, framework="pt")
            for name in file.keys():  # noqa: SIM118 - a file of tensors is no mapping
                self._places.setdefault(name, []).append(file)

    def __getitem__(self, name: str) -> Tensor:
        parts = [file.get_tensor(name) for file in self._places[name]]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified checkpoint on disk: `run` is what was the same for all of the run up to it, by name."""

    folder: Path
    step: int
    state: dict[str, Any]
    run: dict[str, str]

    def tensors(self) -> SavedTensors:
        """The optimizer's tensors and the random states, on the CPU."""
        return SavedTensors(self.folder)


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes a checkpoint: the run, by name, and its ranks. With `sharded` each rank writes the rows it holds."""

    run: Mapping[str, str] = field(default_factory=dict)
    ranks: Ranks = field(default_factory=Ranks)
    sharded: bool = False


def checkpoints_of(folder: Path) -> Path:
    """Where a run folder keeps its checkpoints."""
    return folder / "checkpoints"


def save_checkpoint(
    root: Path, step: int, state: dict[str, Any], tensors: dict[str, Tensor], writer: Writer | None = None
) -> Path:
    """Write `step-NNNNNN` under `root`: staged, synced, renamed. Raises StorageError when the disk fails or is full.

    All ranks call it; one writes, unless the tensors are shards.
    """
    writer = writer or Writer()
    folder, staging = root / f"step-{step:06d}", root / f".staging-{step:06d}"
    size = sum(tensor.nbytes for tensor in tensors.values())
    try:
        if writer.ranks.first:
            _sweep(root)
            staging.mkdir(parents=True)
        writer.ranks.wait()
        if writer.ranks.first or writer.sharded:
            written = _write_tensors(staging, tensors, writer)
        else:
            written = {}
        files = {name: facts for part in writer.ranks.gather(written) for name, facts in part.items()}
        if writer.ranks.first:
            _finish(staging, {"step": step, **state}, files, writer)
            if folder.exists():  # damaged, or the run would have gone on from it
                set_aside(folder)
            staging.rename(folder)
            sync_directory(root)
        writer.ranks.wait()
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise storage_error(error, folder, size) from error
    return folder


def _write_tensors(staging: Path, tensors: dict[str, Tensor], writer: Writer) -> dict[str, Any]:
    """Write this rank's files; length and hash of each by its name."""
    number = f"-{writer.ranks.rank + 1:05d}-of-{writer.ranks.size:05d}" if writer.sharded else ""
    return write_tensors(staging, f"state{number}", tensors)


def _finish(staging: Path, state: dict[str, Any], files: dict[str, Any], writer: Writer) -> None:
    write_json(staging / "state.json", state)
    manifest = {
        "step": state["step"],
        "parent_step": state.get("parent_step"),
        "recipe": sha256(canonical_json({name: value for name, value in writer.run.items() if "." in name})),
        "run": dict(writer.run),
        "files": files | {"state.json": _described(staging / "state.json")},
    }
    write_json(staging / MANIFEST, manifest | {"sha256": sha256(canonical_json(manifest))})
    sync_directory(staging)


def newest_checkpoint(root: Path) -> Checkpoint | None:
    """The newest checkpoint whose files are what its manifest says; None where there is none to trust."""
    for folder in sorted(root.glob("step-*"), reverse=True):
        if (checkpoint := verify_checkpoint(folder)) is not None:
            return checkpoint
    return None


def verify_checkpoint(folder: Path) -> Checkpoint | None:
    """The checkpoint in `folder`, or None where a file is missing, added or changed."""
    try:
        manifest = _trusted_manifest(folder)
        if {file.name for file in folder.iterdir()} != {MANIFEST, *manifest["files"]}:
            return None
        if any(_described(folder / name) != wanted for name, wanted in manifest["files"].items()):
            return None
        return open_checkpoint(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def open_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`, which another rank has verified; raises ValueError where names disagree."""
    manifest = _trusted_manifest(folder)
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    if folder.name != f"step-{state['step']:06d}" or manifest["step"] != state["step"]:
        raise ValueError(f"{folder} holds step {state['step']}")
    return Checkpoint(folder, state["step"], state, manifest["run"])


def _trusted_manifest(folder: Path) -> dict[str, Any]:
    """The manifest; raises ValueError where any byte of it is not as it was written."""
    text = (folder / MANIFEST).read_text(encoding="utf-8")
    manifest: dict[str, Any] = json.loads(text)
    body = {name: value for name, value in manifest.items() if name != "sha256"}
    as_written = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if text != as_written or manifest["sha256"] != sha256(canonical_json(body)):
        raise ValueError(f"{folder / MANIFEST} is damaged")
    return manifest


def set_aside_newer(root: Path, step: int) -> None:
    """Take every checkpoint after `step` out of the way: it is damaged, or it would have been resumed from."""
    for folder in root.glob("step-*"):
        if folder.name > f"step-{step:06d}":
            set_aside(folder)


def set_aside(folder: Path) -> None:
    """Keep a damaged checkpoint for whoever wants to look, out of the way of the good ones."""
    aside = folder.with_name(f"damaged-{folder.name}")
    if aside.is_dir():
        shutil.rmtree(aside)
    folder.rename(aside)


def drop_old(root: Path, keep: int, best_step: int | None) -> None:
    """Remove all but the newest `keep` checkpoints and the best; called only after a newer one is safe."""
    folders = sorted(root.glob("step-*"), reverse=True)
    for folder in folders[keep:]:
        if best_step is None or folder.name != f"step-{best_step:06d}":
            # Renamed first, so that a kill half way leaves no folder that looks like a checkpoint.
            folder.rename(root / f".dropped-{folder.name}")
    _sweep(root)


def _sweep(root: Path) -> None:
    """Remove what a killed save left behind, and what was dropped."""
    for pattern in (".staging-*", ".dropped-*"):
        for left in root.glob(pattern):
            shutil.rmtree(left, ignore_errors=True)


def require_room(root: Path, trained_weights: int) -> None:
    """Raise NoRoomError where two checkpoints of that many weights would not fit beside what is there."""
    parent = existing_parent(root)
    free, needed = shutil.disk_usage(parent).free, 2 * trained_weights * BYTES_PER_WEIGHT
    if free < needed:
        raise NoRoomError(
            f"{parent} has {free} bytes free and two checkpoints need {needed}; free some space or choose another --out."
        )


def random_state(device: torch.device, ranks: Ranks = Ranks()) -> dict[str, Tensor]:  # noqa: B008 - a frozen value
    """The states of torch's generators on all ranks, as byte tensors."""
    own = {"random.cpu": torch.get_rng_state()}
    if device.type == "cuda":
        own["random.cuda"] = torch.cuda.get_rng_state(device)
    said = ranks.gather({name: bytes(state.tolist()).hex() for name, state in own.items()})
    return {
        name + _of_rank(rank): torch.frombuffer(bytearray.fromhex(state), dtype=torch.uint8)
        for rank, states in enumerate(said)
        for name, state in states.items()
    }


def restore_random_state(tensors: Mapping[str, Tensor], device: torch.device, rank: int = 0) -> bool:
    """Set torch's generators back to what `random_state` gave; False where that rank was not there."""
    if f"random.cpu{_of_rank(rank)}" not in tensors:
        return False
    torch.set_rng_state(tensors[f"random.cpu{_of_rank(rank)}"])
    if device.type == "cuda" and f"random.cuda{_of_rank(rank)}" in tensors:
        torch.cuda.set_rng_state(tensors[f"random.cuda{_of_rank(rank)}"], device)
    return True


def _of_rank(rank: int) -> str:
    return f".rank{rank}" if rank else ""


def _described(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
