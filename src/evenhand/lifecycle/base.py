"""The base model that a run started from: by name, revision and hash, and never by one machine's folder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evenhand.errors import ModelError
from evenhand.files import canonical_json, sha256, sha256_file
from evenhand.lifecycle.manifest import NAME, read_manifest
from evenhand.model import builtin
from evenhand.model.load import Source, find_source
from evenhand.model.places import public_name


@dataclass(frozen=True, slots=True)
class Base:
    """`name` is what others call it, and no folder of this machine; `revision` is a hub's commit; `origin` is where a
    built-in one comes from."""

    name: str
    sha256: str
    revision: str | None = None
    origin: dict[str, Any] | None = None

    def json(self) -> dict[str, Any]:
        """The base as a manifest states it."""
        return {"name": self.name, "sha256": self.sha256, "revision": self.revision, "origin": self.origin}


def weights_hash(source: Source) -> str:
    """One hash of the weights and configuration behind `source`, an adapter's base included."""
    files = sorted([*source.folder.glob("*.safetensors"), source.folder / "config.json"])
    parts = [sha256_file(file) for file in files if file.exists()]
    return sha256(canonical_json([*parts, weights_hash(source.base) if source.base else None]))


def base_of(name: str, expected_sha256: str) -> tuple[Base, Source]:
    """The base that `name` means here; raises ModelError where it is missing or has other weights than expected."""
    source = find_source(name)
    found = weights_hash(source)
    if found != expected_sha256:
        raise ModelError(
            f"{name} is not the base that was trained on: its weights hash to {found[:16]} and the run's to "
            f"{expected_sha256[:16]}; get that revision of the base back."
        )
    return Base(public_name(name, source.folder), found, _revision(source.folder), _origin(source.folder)), source


def require_shipped_base(source: Source) -> None:
    """Raise ModelError where a shipped adapter stands on another base than its manifest states."""
    if source.base is None or not (source.folder / NAME).exists():
        return
    stated = str(read_manifest(source.folder)["base"]["sha256"])
    if (found := weights_hash(source.base)) != stated:
        raise ModelError(
            f"{source.base.name} is not the base that {source.folder} was trained on: its weights hash to {found[:16]} and "
            f"the manifest says {stated[:16]}."
        )


def _revision(folder: Path) -> str | None:
    """The commit, where the folder is a hub's snapshot."""
    return folder.name if folder.parent.name == "snapshots" else None


def _origin(folder: Path) -> dict[str, Any] | None:
    file = folder / "origin.json"
    if not file.exists():
        return None
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found | {"repository": builtin.REPOSITORY}
