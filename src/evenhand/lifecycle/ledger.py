"""An append-only log whose entries are files: each is written whole, holds the hash of the one before, and is never changed.

The next number can be taken only once, which is what decides between processes that append at the same moment.
"""

import json
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import fsspec

from evenhand.errors import RegistryError, UserError
from evenhand.files import canonical_json, sha256, storage_error, sync_directory

_NAME = re.compile(r"(\d{6,})\.json")
_NOTHING = "0" * 64
_STALE_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: its number from 1, what it says, and the hash by which the next one names it."""

    number: int
    content: Mapping[str, Any]
    sha256: str


class Shelf(Protocol):
    """Where entries lie: a folder here, or one that fsspec knows."""

    def names(self) -> list[str]:
        """The names of all files on the shelf."""
        ...

    def read(self, name: str) -> bytes:
        """A file's content."""
        ...

    def create(self, name: str, content: bytes) -> bool:
        """Put a new file there, whole; False where the name is taken already."""
        ...


@dataclass(frozen=True, slots=True)
class LocalShelf:
    """A folder. A hard link gives a complete file its name, and fails where the name is taken."""

    folder: Path

    def names(self) -> list[str]:
        """The names of all files on the shelf."""
        return [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []

    def read(self, name: str) -> bytes:
        """A file's content."""
        return (self.folder / name).read_bytes()

    def create(self, name: str, content: bytes) -> bool:
        """Put a new file there, whole and durable; False where the name is taken already."""
        staging = self.folder / f".{name}.staging-{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            with staging.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.link(staging, self.folder / name)
            sync_directory(self.folder)
        except FileExistsError:
            return False
        except OSError as error:
            raise storage_error(error, self.folder / name, len(content)) from error
        finally:
            staging.unlink(missing_ok=True)
        return True

    def _sweep(self) -> None:
        """Remove what killed processes left; a living one, here or on another machine, is done within the hour."""
        for left in self.folder.glob(".*.staging-*"):
            with suppress(FileNotFoundError):  # its owner was faster
                if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                    left.unlink()


@dataclass(frozen=True, slots=True)
class RemoteShelf:
    """A folder behind a URL, on a file system that can create a file only where there is none."""

    url: str

    def names(self) -> list[str]:
        """The names of all files on the shelf."""
        files, folder = fsspec.core.url_to_fs(self.url)
        files.invalidate_cache()
        return [str(path).rpartition("/")[2] for path in files.ls(folder, detail=False)] if files.exists(folder) else []

    def read(self, name: str) -> bytes:
        """A file's content."""
        files, folder = fsspec.core.url_to_fs(self.url)
        return bytes(files.cat_file(f"{folder}/{name}"))

    def create(self, name: str, content: bytes) -> bool:
        """Put a new file there, whole; False where the name is taken already."""
        files, folder = fsspec.core.url_to_fs(self.url)
        try:
            files.makedirs(folder, exist_ok=True)
            files.pipe_file(f"{folder}/{name}", content, mode="create")
        except FileExistsError:
            return False
        except NotImplementedError as error:
            raise UserError(
                f"{self.url}: this file system cannot create a file only where there is none, so two promotions could "
                "both win; keep the registry in a folder or another store."
            ) from error
        return True


def read_entries(shelf: Shelf) -> list[Entry]:
    """All entries in order; raises RegistryError at the first one that is missing, changed or out of the chain."""
    numbers = sorted(int(found[1]) for found in map(_NAME.fullmatch, shelf.names()) if found)
    entries: list[Entry] = []
    for place, number in enumerate(numbers, start=1):
        if number != place:
            raise RegistryError(f"entry {place} of the log is missing; restore the log from a copy.")
        entries.append(_checked(number, shelf.read(_file(number)), entries[-1].sha256 if entries else _NOTHING))
    return entries


def append(shelf: Shelf, entries: list[Entry], content: Mapping[str, Any]) -> Entry | None:
    """Append an entry after `entries`; None where another process has appended since they were read."""
    number = len(entries) + 1
    linked = {**content, "number": number, "previous": entries[-1].sha256 if entries else _NOTHING}
    written = _written(linked)
    return Entry(number, linked, sha256(written)) if shelf.create(_file(number), written) else None


def _checked(number: int, written: bytes, previous: str) -> Entry:
    try:
        content = json.loads(written)
        del content["sha256"]
        whole = _written(content) == written and content["number"] == number
    except (ValueError, KeyError, TypeError) as error:
        raise RegistryError(f"entry {number} of the log is not readable; restore the log from a copy.") from error
    if not whole:
        raise RegistryError(f"entry {number} of the log was changed; restore the log from a copy.")
    if content["previous"] != previous:
        raise RegistryError(f"entry {number} of the log does not follow entry {number - 1}, which was replaced.")
    return Entry(number, content, sha256(written))


def _written(content: Mapping[str, Any]) -> bytes:
    """The entry's only spelling, with the hash of what it says."""
    return canonical_json({**content, "sha256": sha256(canonical_json(content))}) + b"\n"


def _file(number: int) -> str:
    return f"{number:06d}.json"
