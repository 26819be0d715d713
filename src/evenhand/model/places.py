"""Where this machine keeps what shipped files know only by hash: a base without a public name, the data of a run."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evenhand.errors import StorageError
from evenhand.files import write_json
from evenhand.model.builtin import cache_folder

_HASH = re.compile("[0-9a-f]{64}")


def remember_place(sha256: str, place: Mapping[str, Any]) -> None:
    """Note in evenhand's cache where the content of this hash lies; a cache that cannot be written notes nothing."""
    try:
        write_json(_file(sha256), dict(place))
    except (OSError, StorageError):  # what was shipped is right without it; only a name has to be given again
        return


def place_of(sha256: object) -> dict[str, Any] | None:
    """What was noted last for this hash; None where nothing was, or on another machine."""
    if not isinstance(sha256, str) or not _HASH.fullmatch(sha256):
        return None
    try:
        value = json.loads(_file(sha256).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def public_name(name: str, folder: Path) -> str:
    """What others can call the model that is `name` on this machine and lies in `folder`, without a folder of the machine.

    Built-in models and hub ids are public; a hub's snapshot has its repository's name, any other folder only its own.
    """
    if repository := hub_repository(folder):
        return repository
    path = Path(name).expanduser()
    if not path.is_dir():
        return name
    path = path.resolve()
    return path.parent.name if path.name == "model" and (path.parent / "recipe.json").exists() else path.name


def hub_repository(folder: Path) -> str | None:
    """The repository of which `folder` is a snapshot in the hub's cache."""
    cached = folder.parents[1].name if folder.parent.name == "snapshots" else ""
    return cached.removeprefix("models--").replace("--", "/") if cached.startswith("models--") else None


def portable(value: Any, key: str = "") -> Any:
    """A recipe's value in which a path of this machine is only its last part; relative paths inside stay as they are."""
    if isinstance(value, dict):
        return {own: portable(inner, own) for own, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [portable(inner, key) for inner in value]
    return Path(value).name if isinstance(value, str) and _is_of_this_machine(value, key) else value


def _is_of_this_machine(text: str, key: str) -> bool:
    if key in ("source", "train", "validation", "reference_model"):
        return text.startswith((os.sep, "~")) or ".." in Path(text).parts
    return text.startswith(os.sep) and os.path.exists(text)  # a switch such as /no_think is no path


def _file(sha256: str) -> Path:
    return cache_folder() / "places" / f"{sha256}.json"
