"""Which model is in production, which was before it, and who decided so, when, why and on what evidence.

A registry is a folder or a URL that fsspec knows: `models/` holds what was shipped, by the hash of its manifest, and
`log/` every decision. The state is what the log says and nothing else, so a kill at any moment leaves the old state or
the new one.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec

from evenhand.errors import RegistryError, UserError
from evenhand.files import sha256, sha256_file, storage_error, sync_directory
from evenhand.lifecycle.ledger import Entry, LocalShelf, RemoteShelf, Shelf, append, read_entries
from evenhand.lifecycle.manifest import NAME, SIGNATURE, manifest_hash, problems, read_manifest
from evenhand.lifecycle.manifest import entries as files_of

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_OTHER_MANIFEST = "its manifest is not the one that was added"


@dataclass(frozen=True, slots=True)
class Decision:
    """Who decides, when (ISO 8601, UTC), and why."""

    who: str
    when: str
    why: str


@dataclass(frozen=True, slots=True)
class State:
    """What the log adds up to: candidates by name with their manifest's hash, and promoted names, the last in production."""

    candidates: Mapping[str, str] = field(default_factory=dict)
    promoted: tuple[str, ...] = ()

    @property
    def incumbent(self) -> str | None:
        """The model in production."""
        return self.promoted[-1] if self.promoted else None

    @property
    def fallback(self) -> str | None:
        """The model that a rollback would bring back."""
        return self.promoted[-2] if len(self.promoted) > 1 else None


@dataclass(frozen=True, slots=True)
class Registry:
    """A registry by its folder or URL."""

    place: str

    @property
    def shelf(self) -> Shelf:
        """Where the log lies."""
        return RemoteShelf(f"{self.place.rstrip('/')}/log") if self.is_remote else LocalShelf(Path(self.place) / "log")

    @property
    def is_remote(self) -> bool:
        """Whether it lies behind a URL."""
        return "://" in self.place

    def model_place(self, manifest_sha256: str) -> str:
        """Where the model with that manifest lies."""
        return f"{self.place.rstrip('/')}/models/{manifest_sha256[:32]}"


def read_log(registry: Registry) -> list[Entry]:
    """Every decision in order; raises RegistryError where the log is not whole."""
    return read_entries(registry.shelf)


def state_of(log: list[Entry]) -> State:
    """The state after all of `log`."""
    candidates: dict[str, str] = {}
    promoted: list[str] = []
    for entry in log:
        content = entry.content
        match content["action"]:
            case "add":
                candidates[content["name"]] = content["manifest_sha256"]
            case "promote":
                promoted.append(content["name"])
            case "rollback":
                promoted.pop()
    return State(candidates, tuple(promoted))


def add(registry: Registry, folder: Path, name: str | None, decision: Decision) -> Entry:
    """Copy an exported folder into the registry as a candidate, once it is what was shipped.

    Raises RegistryError where it is not, UserError for a name that is taken or no name.
    """
    if found := problems(folder):
        raise RegistryError(f"{folder} is not what was shipped: {found[0].path} {found[0].what}; export it again.")
    manifest = manifest_hash(folder)
    name = name or f"{read_manifest(folder)['name']}-{manifest[:8]}"
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r} is no name for a candidate; use lower-case letters, digits, dot, dash, underscore.")
    _refuse_taken(registry, name)
    _store(registry, folder, manifest)
    while True:
        log = _refuse_taken(registry, name)
        content = {"action": "add", "name": name, "manifest_sha256": manifest, **_of(decision)}
        if entry := append(registry.shelf, log, content):
            return entry


def promote(
    registry: Registry, name: str, gate: Mapping[str, Any] | None, decision: Decision, overrule: str | None = None
) -> Entry:
    """Put candidate `name` into production; the model that is there becomes its fallback.

    `gate` is what `evenhand gate` found: it must have passed, for this candidate, against the model that is in
    production now. `overrule` is the reason to promote without that, which is kept. Of several processes that promote
    at once on gates against the same incumbent, one wins. Raises RegistryError for the others and where it is refused.
    """
    first = state_of(read_log(registry)).incumbent
    while True:
        log = read_log(registry)
        state = state_of(log)
        if state.incumbent != first:
            raise RegistryError(f"{state.incumbent} was put into production meanwhile; run the gate against it.")
        if name not in state.candidates:
            raise UserError(f"{name} is not in {registry.place}; it holds {', '.join(state.candidates) or 'nothing'}.")
        if name == state.incumbent:
            raise RegistryError(f"{name} is in production already.")
        against = state.candidates.get(state.incumbent or "")
        reason = why_not(gate, state.candidates[name], against)
        if reason and not (overrule or "").strip():
            raise RegistryError(f"{name} is not promoted: {reason}; pass the gate, or give a reason with --overrule.")
        content = {
            "action": "promote",
            "name": name,
            "manifest_sha256": state.candidates[name],
            "instead_of": state.incumbent,
            "gate": _summary(gate),
            "overruled": {"reason": overrule, "because": reason} if reason else None,
            **_of(decision),
        }
        if entry := append(registry.shelf, log, content):
            return entry


def rollback(registry: Registry, decision: Decision, instead_of: str | None = None) -> Entry:
    """Bring back the model that was in production before; raises UserError where there was none.

    Where `instead_of` names the model that is to go, raises RegistryError if another one is in production by now.
    """
    first = state_of(read_log(registry)).incumbent if instead_of is None else instead_of
    while True:
        log = read_log(registry)
        state = state_of(log)
        if state.incumbent != first:
            raise RegistryError(f"{state.incumbent} was put into production meanwhile; look again before rolling back.")
        if state.fallback is None:
            raise UserError(
                f"{registry.place} has no fallback: {state.incumbent or 'nothing'} is the only one ever there."
            )
        content = {
            "action": "rollback",
            "name": state.fallback,
            "manifest_sha256": state.candidates[state.fallback],
            "instead_of": state.incumbent,
            **_of(decision),
        }
        if entry := append(registry.shelf, log, content):
            return entry


def why_not(gate: Mapping[str, Any] | None, manifest_sha256: str, against: str | None) -> str | None:
    """Why a gate's result does not allow the promotion; None where it does."""
    if gate is None:
        return "no gate was given"
    if gate.get("passed") is not True:
        failed = [check["name"] for check in gate.get("checks", []) if not check.get("passed")]
        return f"its gate did not pass ({', '.join(failed) or 'no check ran'})"
    if (gate.get("candidate") or {}).get("manifest_sha256") != manifest_sha256:
        return "its gate was passed by another candidate"
    if against is not None and (gate.get("incumbent") or {}).get("manifest_sha256") != against:
        return "its gate was run against another incumbent than the one in production"
    return None


def read_gate(file: Path) -> dict[str, Any]:
    """What `evenhand gate` wrote; raises UserError where the file holds something else."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is not readable as a gate's result ({error}).") from error
    if not isinstance(value, dict) or not isinstance(value.get("checks"), list):
        raise UserError(f"{file} is not a gate's result; write one with `evenhand gate ... --out {file}`.")
    return value


def model_problems(registry: Registry, state: State) -> list[str]:
    """What is wrong with the models that the log names: files that are missing, added or changed; reads every byte."""
    look = _remote_problems if registry.is_remote else _local_problems
    return [
        f"{name}: {problem}"
        for name, manifest in state.candidates.items()
        for problem in look(registry.model_place(manifest), manifest)
    ]


def _local_problems(place: str, manifest_sha256: str) -> Iterator[str]:
    folder = Path(place)
    if not (folder / NAME).is_file():
        yield f"{folder} is missing"
    elif manifest_hash(folder) != manifest_sha256:
        yield _OTHER_MANIFEST
    else:
        yield from (f"{problem.path} {problem.what}" for problem in problems(folder))


def _remote_problems(place: str, manifest_sha256: str) -> Iterator[str]:
    """As for a folder here; what is read is what is hashed, and a store holds files alone."""
    files, root = fsspec.core.url_to_fs(place)
    files.invalidate_cache()
    there = {path[len(root) :].lstrip("/") for path in files.find(root)} if files.exists(root) else set()
    if NAME not in there:
        yield f"{place} is missing"
        return
    written = bytes(files.cat_file(f"{root}/{NAME}"))
    if sha256(written) != manifest_sha256:
        yield _OTHER_MANIFEST
        return
    manifest = json.loads(written)
    kept = {NAME, *manifest["files"], *([SIGNATURE] if manifest.get("signature") else [])}
    yield from (f"{path} was added" for path in sorted(there - kept))
    yield from (f"{path} was removed" for path in sorted(kept - there))
    for path in sorted(there & manifest["files"].keys()):
        with files.open(f"{root}/{path}", "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != manifest["files"][path]["sha256"]:
                yield f"{path} was changed: its sha256 is another one"


def _refuse_taken(registry: Registry, name: str) -> list[Entry]:
    log = read_log(registry)
    if name in state_of(log).candidates:
        raise UserError(f"{name} is in {registry.place} already; choose another --name.")
    return log


def _of(decision: Decision) -> dict[str, str]:
    return {"who": decision.who, "when": decision.when, "why": decision.why}


def _summary(gate: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The gate's result without the replies that failed, which may be long."""
    if gate is None:
        return None
    checks = [{key: value for key, value in check.items() if key != "failing"} for check in gate["checks"]]
    return {**gate, "checks": checks}


def _store(registry: Registry, folder: Path, manifest_sha256: str) -> None:
    """Copy the folder to its place; a copy that a kill left half done is never at that place, or is done again."""
    place = registry.model_place(manifest_sha256)
    if registry.is_remote:
        files, root = fsspec.core.url_to_fs(place)
        for path in files_of(folder):
            files.makedirs(f"{root}/{path}".rpartition("/")[0], exist_ok=True)
            files.put_file(str(folder / path), f"{root}/{path}")
        return
    target = Path(place)
    if target.is_dir():
        return
    staging = target.with_name(f".{target.name}.staging-{os.getpid()}")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        shutil.copytree(folder, staging, symlinks=True)
        if sha256_file(staging / "manifest.json") != manifest_sha256 or problems(staging):
            raise RegistryError(f"{folder} changed while it was copied; nothing was added.")
        for path in files_of(staging):
            with (staging / path).open("rb") as file:
                os.fsync(file.fileno())
        if not target.is_dir():
            staging.rename(target)
            sync_directory(target.parent)
    except FileExistsError:
        pass  # another process added the same model
    except OSError as error:
        if target.is_dir():
            return
        raise storage_error(error, target, sum((folder / path).stat().st_size for path in files_of(folder))) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
