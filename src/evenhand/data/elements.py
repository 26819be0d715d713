"""A file that is one JSON array, cut into its elements with bounded memory."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from evenhand.data.lines import BYTE_ORDER_MARK, CHUNK_BYTES, MAX_LINE_BYTES, Notes, Piece, json_rows
from evenhand.data.rows import Row
from evenhand.errors import DataError

STRUCTURE = re.compile(rb'["\[\]{},]')
# Ends at the closing quote, at the end, or at a backslash that is the last byte.
IN_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
# Rows are a few levels deep; the parser gives up at about a thousand.
MAX_DEPTH = 10_000
QUOTE = ord('"')


@dataclass(slots=True)
class ArrayCutter:
    """Cuts the bytes of a JSON array into its elements by counting brackets outside strings.

    `line` is where the next byte stands, `begin` where the current element began, None before it has begun; `size`
    is all that the element has, `parts` what of it is kept.
    """

    name: str
    depth: int = 0
    line: int = 1
    begin: int | None = None
    in_string: bool = False
    escaped: bool = False
    closed: bool = False
    size: int = 0
    parts: list[bytes] = field(default_factory=list)

    def cut(self, chunk: bytes) -> Iterator[Piece]:
        """The elements that end in this chunk; what stands after the array's end is kept as a part."""
        start = 0
        for position, mark in self.marks(chunk):
            if mark in b"[{":
                self.depth += 1
                if self.depth == 1:
                    self.line += chunk[start:position].count(b"\n")
                    start = position
                if self.depth > MAX_DEPTH:
                    raise DataError(
                        f"{self.name}: brackets are nested more than {MAX_DEPTH} deep from line {self.begin or self.line} "
                        "on, so the end of that row cannot be found; write one object a line in a .jsonl file."
                    )
                continue
            self.depth -= mark in b"]}"
            self.closed = self.depth == 0
            if self.closed or (mark == b"," and self.depth == 1):
                yield from self.finish(chunk[start : position - 1])
                start = position
            if self.closed:
                break
        if self.depth or self.closed:
            self.keep(chunk[start:])

    def marks(self, chunk: bytes) -> Iterator[tuple[int, bytes]]:
        """The brackets and commas outside strings, each with the position after it."""
        position, self.escaped = int(self.escaped), False
        while position < len(chunk):
            if self.in_string:
                inside = IN_STRING.match(chunk, position)
                assert inside is not None, "the pattern matches nothing as well"
                position = inside.end()
                self.in_string = position == len(chunk) or chunk[position] != QUOTE
                self.escaped = position < len(chunk) and self.in_string
                position += 1
                continue
            match = STRUCTURE.search(chunk, position)
            if match is None:
                return
            position = match.end()
            if match.group() == b'"':
                self.in_string = True
            else:
                yield position, match.group()

    def keep(self, part: bytes) -> None:
        """Hold a part of an element, up to one byte more than an element may have."""
        if self.begin is None and (said := part.lstrip()):
            self.begin = self.line + part[: len(part) - len(said)].count(b"\n")
        self.parts.append(part[: max(0, MAX_LINE_BYTES + 1 - self.size)])
        self.size += len(part)
        self.line += part.count(b"\n")

    def finish(self, part: bytes) -> Iterator[Piece]:
        """The element that ends with this part; nothing for the blank before the end of an empty array."""
        self.keep(part)
        line, too_large, content = self.begin or self.line, self.size > MAX_LINE_BYTES, b"".join(self.parts).strip()
        self.begin, self.size, self.parts = None, 0, []
        if content or not self.closed:
            yield Piece(line, content, too_large)


def array_rows(path: Path, name: str, notes: Notes) -> Iterator[Row]:
    """The elements of a file that is one JSON array; raises DataError for text after its end."""
    with path.open("rb") as file:
        yield from json_rows(name, array_pieces(file, name, notes))


def array_pieces(file: BinaryIO, name: str, notes: Notes) -> Iterator[Piece]:
    """The elements as bytes; an array that never ends leaves a torn last element."""
    cutter = ArrayCutter(name)
    first = True
    while chunk := file.read(CHUNK_BYTES):
        if first and chunk.startswith(BYTE_ORDER_MARK):
            notes["byte_order_mark"] += 1
            chunk = chunk.removeprefix(BYTE_ORDER_MARK)
        first = False
        if cutter.closed:
            cutter.keep(chunk)
        else:
            yield from cutter.cut(chunk)
        if cutter.closed and cutter.begin is not None:
            raise DataError(
                f"{name}: the JSON array is closed before line {cutter.begin}, where more text follows; "
                "write one array, or one object a line in a .jsonl file."
            )
    if not cutter.closed:
        rest = b"".join(cutter.parts).strip()
        yield Piece(cutter.begin or cutter.line, rest, cutter.size > MAX_LINE_BYTES, torn=True)
