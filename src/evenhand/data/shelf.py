"""Judgments in order, however many: kept in memory while they are few, in a nameless temporary file beyond that."""

import os
import tempfile
import weakref
from array import array
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from sys import intern
from typing import BinaryIO, overload

from evenhand.data.schema import Judgment, Message
from evenhand.files import storage_error

MEMORY_CHARACTERS = 64 << 20
_ROWS_AT_ONCE = 256
_LABELS = 9


class Shelf(Sequence[Judgment]):
    """Judgments whose text is on disk; one is read when it is asked for, and the file goes when the shelf does.

    The file is written to the folder for temporary files (TMPDIR) and needs as much room there as the texts have.
    Raises StorageError when that is full.
    """

    def __init__(self) -> None:
        # The file has no name, so a killed process leaves nothing behind.
        self._file: BinaryIO = tempfile.TemporaryFile(prefix="evenhand-")  # noqa: SIM115
        self._starts = array("Q", [0])
        weakref.finalize(self, self._file.close)

    def append(self, judgment: Judgment) -> None:
        """Put one more judgment at the end."""
        record = _packed(judgment)
        try:
            self._file.write(record)
        except OSError as error:
            raise storage_error(error, Path(tempfile.gettempdir()), self._starts[-1] + len(record)) from error
        self._starts.append(self._starts[-1] + len(record))

    def seal(self) -> None:
        """Make everything appended readable."""
        self._file.flush()

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> Judgment: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Judgment]: ...
    def __getitem__(self, index: int | slice) -> Judgment | Sequence[Judgment]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        return self._between(at, at + 1)[0]

    def __iter__(self) -> Iterator[Judgment]:
        for start in range(0, len(self), _ROWS_AT_ONCE):
            yield from self._between(start, min(len(self), start + _ROWS_AT_ONCE))

    def _between(self, start: int, stop: int) -> list[Judgment]:
        begin, end = self._starts[start], self._starts[stop]
        content = os.pread(self._file.fileno(), end - begin, begin)
        bounds = [edge - begin for edge in self._starts[start : stop + 1]]
        return [_unpacked(content[left:right]) for left, right in pairwise(bounds)]


class Gathering:
    """Judgments on their way to a Reading: a list that turns into a Shelf when its text outgrows memory."""

    def __init__(self, memory_characters: int | None = None) -> None:
        self._left = MEMORY_CHARACTERS if memory_characters is None else memory_characters
        self._kept: list[Judgment] = []
        self._shelf: Shelf | None = None

    def __len__(self) -> int:
        return len(self._kept) if self._shelf is None else len(self._shelf)

    def add(self, judgment: Judgment) -> None:
        """Take one more judgment."""
        if self._shelf is not None:
            self._shelf.append(judgment)
            return
        self._kept.append(judgment)
        self._left -= len(judgment.answer_a) + len(judgment.answer_b)
        self._left -= sum(len(turn.content) for turn in judgment.prompt)
        if self._left < 0:
            self._shelf = Shelf()
            for kept in self._kept:
                self._shelf.append(kept)
            self._kept.clear()

    def finished(self) -> Sequence[Judgment]:
        """All of them, in order."""
        if self._shelf is None:
            return tuple(self._kept)
        self._shelf.seal()
        return self._shelf


def _packed(own: Judgment) -> bytes:
    """One record: no text that was read holds NUL, so NUL can stand between the parts, and no label is empty."""
    parts = [own.id, str(own.row), own.group, own.verdict, own.annotator or "", own.shown_first or ""]
    parts += [own.time or "", own.category or "", own.family or "", own.answer_a, own.answer_b]
    for turn in own.prompt:
        parts += (turn.role, turn.content)
    return "\0".join(parts).encode()


def _unpacked(record: bytes) -> Judgment:
    parts = record.decode().split("\0")
    name, row, group, verdict, annotator, shown_first, time, category, family = parts[:_LABELS]
    answer_a, answer_b, *turns = parts[_LABELS:]
    return Judgment(
        id=name,
        row=int(row),
        group=group,
        prompt=tuple(Message(intern(role), content) for role, content in zip(turns[::2], turns[1::2])),  # type: ignore[arg-type]
        answer_a=answer_a,
        answer_b=answer_b,
        verdict=intern(verdict),  # type: ignore[arg-type]
        annotator=intern(annotator) if annotator else None,
        shown_first=intern(shown_first) if shown_first else None,  # type: ignore[arg-type]
        time=time or None,
        category=intern(category) if category else None,
        family=family or None,
    )
