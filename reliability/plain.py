"""A deliberately plain checkpoint: written in place, no manifest, the newest name is trusted. For the contrast only."""

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from evenhand.training import resume
from evenhand.training.checkpoint import Checkpoint, Writer


def save(root: Path, step: int, state: dict[str, Any], tensors: dict[str, Tensor], writer: Writer) -> Path:
    """Write the files where they will be read from."""
    folder = root / f"step-{step:06d}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "state.safetensors")
    (folder / "state.json").write_text(json.dumps({"step": step, "run": dict(writer.run), **state}))
    return folder


def newest(root: Path) -> Checkpoint | None:
    """What the newest name holds; raises whatever reading it raises."""
    for folder in sorted(root.glob("step-*"), reverse=True):
        state = json.loads((folder / "state.json").read_text())
        return Checkpoint(folder, state["step"], state, state["run"])
    return None


def install() -> None:
    """Let this process save and load that way."""
    resume.save_checkpoint, resume.newest_checkpoint = save, newest
