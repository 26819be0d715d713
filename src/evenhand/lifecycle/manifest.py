"""What was shipped: a folder's files by sha256 with where they come from, and whether that is still what lies there."""

import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from evenhand.errors import UserError
from evenhand.files import canonical_json, sha256, sha256_file, write_whole

NAME = "manifest.json"
SIGNATURE = "model.sig"
FORMAT = "evenhand-manifest/1"


@dataclass(frozen=True, slots=True)
class Problem:
    """One way in which a folder is not what was shipped."""

    path: str
    what: str

    def json(self) -> dict[str, str]:
        """The problem as `evenhand verify --json` lists it."""
        return {"path": self.path, "what": self.what}


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> str:
    """List every file of `folder` with `facts` in its manifest, and return the manifest's hash.

    The manifest states the hash of its own content, so that a change of it is seen too; that stops accidents. Someone
    who can edit the folder can make a new manifest: a signature, or the hash kept in a registry, stops them.
    """
    paths = [path for path in entries(folder) if path not in (NAME, SIGNATURE)]
    files = {path: {"sha256": sha256_file(folder / path), "bytes": (folder / path).stat().st_size} for path in paths}
    content = {"format": FORMAT, **facts, "files": files}
    write_whole(folder / NAME, _written(content))
    return sha256_file(folder / NAME)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest in `folder`; raises UserError where there is none that is readable."""
    file = folder / NAME
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{folder} has no {NAME}; give a folder that `evenhand export` wrote.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is not readable JSON ({error}); export the model again.") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT or not isinstance(value.get("files"), dict):
        raise UserError(f"{file} is not a manifest of the kind {FORMAT}; give a folder that `evenhand export` wrote.")
    return value


def manifest_hash(folder: Path) -> str:
    """The hash by which a registry knows what lies in `folder`."""
    return sha256_file(folder / NAME)


def problems(folder: Path) -> list[Problem]:
    """Everything in `folder` that was added, removed, changed, renamed or linked since it was shipped.

    Raises UserError where there is no manifest to compare with.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder.")
    if (folder / NAME).is_symlink():
        return [Problem(NAME, "is a link, and what was shipped holds no links")]
    manifest = read_manifest(folder)
    found = []
    if (folder / NAME).read_bytes() != _written({k: v for k, v in manifest.items() if k != "content_sha256"}):
        found.append(Problem(NAME, "was changed: it does not have the hash that it states"))
    listed = manifest["files"]
    kept = {NAME, *listed, *([SIGNATURE] if manifest.get("signature") else [])}
    there = set()
    for path in entries(folder):
        there.add(path)
        found += _entry_problems(folder, path, listed, kept)
    found += [Problem(path, "was removed") for path in sorted(kept - there)]
    return found


def _entry_problems(folder: Path, path: str, listed: Mapping[str, Any], kept: set[str]) -> Iterator[Problem]:
    mode = (folder / path).lstat().st_mode
    if stat.S_ISLNK(mode):
        yield Problem(path, "is a link, and what was shipped holds no links")
    elif not stat.S_ISREG(mode):
        yield Problem(path, "is no plain file" if not stat.S_ISDIR(mode) else "is an empty folder that was added")
    elif path not in kept:
        yield Problem(path, "was added")
    elif path in listed and listed[path].get("sha256") != sha256_file(folder / path):
        yield Problem(path, "was changed: its sha256 is another one")


def entries(folder: Path) -> list[str]:
    """Every file, link, special file and empty folder below `folder`, by relative path; no link is followed."""
    found = []
    for place, folders, files in os.walk(folder, followlinks=False):
        here = Path(place)
        linked = [name for name in folders if (here / name).is_symlink()]
        empty = [here] if not folders and not files and here != folder else []
        found += [*(here / name for name in (*files, *linked)), *empty]
    return sorted(str(PurePosixPath(path.relative_to(folder))) for path in found)


def _written(content: Mapping[str, Any]) -> bytes:
    """The manifest's only spelling: what it says, then the hash of what it says."""
    whole = {**content, "content_sha256": sha256(canonical_json(content))}
    return (json.dumps(whole, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()
