"""Files written whole or not at all, canonical JSON, and content hashes."""

import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from evenhand.errors import StorageError, UserError

DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces; the same value always gives the same bytes.

    Raises ValueError for NaN and infinity, which are not JSON.

    >>> canonical_json({"b": 1, "a": "é"})
    b'{"a":"\\xc3\\xa9","b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256(content: bytes) -> str:
    """Hexadecimal SHA-256 of `content`."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_root(rows: Iterable[Any]) -> str:
    """One hash for a set of JSON rows that does not depend on their order."""
    return sha256("\n".join(sorted(sha256(canonical_json(row)) for row in rows)).encode())


def write_whole(path: Path, content: bytes | str) -> None:
    """Write `content` to `path` so that a reader sees the old file or the new one, never a part.

    Raises StorageError when the disk is full or fails.
    """
    staging = path.with_name(f".{path.name}.staging-{os.getpid()}")
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with staging.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        staging.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        with suppress(OSError):
            staging.unlink(missing_ok=True)
        error.filename = str(path)  # the name that was asked for, and not the staging's
        raise storage_error(error, path, len(data)) from error


def remove_staging(path: Path) -> None:
    """Remove what killed calls of `write_whole` left beside `path`; only where no other process is writing it."""
    for staging in path.parent.glob(f".{glob.escape(path.name)}.staging-*"):
        staging.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_whole(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sync_directory(folder: Path) -> None:
    """Make the names in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def storage_error(error: OSError, path: Path, needed_bytes: int) -> Exception:
    """The same failure as a StorageError that says what was needed, or `error` itself if it is not the disk's."""
    if error.errno not in DISK_ERRORS:
        return error
    free = shutil.disk_usage(existing_parent(path)).free
    return StorageError(
        f"{path}: {os.strerror(error.errno or 0)} while writing {needed_bytes} bytes with {free} bytes free; "
        "free some space or choose another folder, then run the same command again."
    )


def as_disk_error(write: Callable[[], object]) -> None:
    """Do what may fail in a library that reports a full disk in an error of its own; that becomes the OSError it was."""
    try:
        write()
    except OSError:
        raise
    except Exception as error:
        for number in DISK_ERRORS:
            if f"os error {number}" in str(error):
                raise OSError(number, os.strerror(number)) from error
        raise


@contextmanager
def held(folder: Path, say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Keep other processes out of `folder` until the end.

    Where one is in it already, says so and waits for it to end, or raises UserError where nobody is there to `say` it to.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        _lock(handle, folder, say)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path, say: Callable[[str], None] | None) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        if say is None:
            raise UserError(
                f"{folder} is in use by another process; wait for it to end, or choose another folder."
            ) from error
        say(f"{folder} is in use by another process; waiting for it to end")
        fcntl.flock(handle, fcntl.LOCK_EX)


def existing_parent(path: Path) -> Path:
    """The nearest folder above `path` that exists."""
    for folder in (path, *path.absolute().parents):
        if folder.is_dir():
            return folder
    return Path("/")
