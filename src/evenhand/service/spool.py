"""A file of lines that wait to be sent: appended whole, read in order, and left for the next process when its own dies."""

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

from evenhand.errors import StorageError
from evenhand.files import storage_error

_LIMIT_BYTES = 1 << 30


class Spool:
    """One process's file, locked while it lives. How much of it was sent stands beside it, in `.sent`.

    Losing that number only means sending again, so it is not forced to the disk.
    """

    def __init__(self, path: Path, handle: int) -> None:
        self.path = path
        self._handle = handle
        self._size = os.fstat(handle).st_size
        self._mark = os.open(path.with_suffix(".sent"), os.O_RDWR | os.O_CREAT, 0o600)
        self._sent = min(int(os.pread(self._mark, 20, 0) or b"0"), self._size)

    @classmethod
    def new(cls, folder: Path) -> Self:
        """A new one, which no other process can take for a dead one's at any moment."""
        path = folder / f"{uuid.uuid4().hex}.jsonl"
        hidden = path.with_suffix(".new")
        handle = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX)
        hidden.rename(path)
        return cls(path, handle)

    @classmethod
    def left_in(cls, folder: Path) -> Iterator[Self]:
        """Those whose process is dead, each locked for this one."""
        for path in sorted(folder.glob("*.jsonl")):
            with suppress(FileNotFoundError):  # another process was faster
                handle = os.open(path, os.O_RDWR | os.O_APPEND)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(handle)
                    continue
                if path.exists():
                    yield cls(path, handle)
                else:
                    os.close(handle)

    @property
    def waits(self) -> bool:
        """Whether anything is left to send."""
        return self._sent < self._size

    def append(self, line: bytes, durable: bool) -> None:
        """Add a line that ends in a newline; raises StorageError where there is no room, and nothing was added."""
        if self._size - self._sent + len(line) > _LIMIT_BYTES:
            raise StorageError(
                f"{self.path} holds {_LIMIT_BYTES} bytes that were not sent; see why the service is away."
            )
        try:
            written = os.write(self._handle, line)
            if written < len(line):
                os.write(self._handle, line[written:])
            if durable:
                os.fdatasync(self._handle)
        except OSError as error:
            os.ftruncate(self._handle, self._size)
            raise storage_error(error, self.path, len(line)) from error
        self._size += len(line)

    def first(self, most: int, most_bytes: int) -> list[bytes]:
        """The oldest lines that were not sent, or one alone that is longer than `most_bytes`.

        A torn last line, whose writer never came back from it, is none.
        """
        content = os.pread(self._handle, min(most_bytes, self._size - self._sent), self._sent)
        if content and b"\n" not in content:
            with open(self._handle, "rb", closefd=False) as file:
                file.seek(self._sent)
                content = file.readline()
        return content[: content.rfind(b"\n") + 1].splitlines(keepends=True)[:most]

    def sent(self, lines: list[bytes]) -> None:
        """Mark lines that `first` gave as sent; an emptied file starts anew."""
        self._sent += sum(map(len, lines))
        if not self.waits:
            os.ftruncate(self._handle, 0)
            self._sent = self._size = 0
        os.pwrite(self._mark, b"%020d" % self._sent, 0)

    def close(self, remove: bool) -> None:
        """Give the file up, and remove it where nothing waits in it."""
        if remove:
            self.path.unlink(missing_ok=True)
            self.path.with_suffix(".sent").unlink(missing_ok=True)
        os.close(self._mark)
        os.close(self._handle)
