"""Text files cut into lines with bounded memory, and lines of JSON parsed into rows."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from json import JSONDecoder
from pathlib import Path
from typing import Any, BinaryIO

from evenhand.data.reasons import Unusable
from evenhand.data.rows import TEXT_SHOWN, Row
from evenhand.files import sha256

MAX_LINE_BYTES = 4 << 20
CHUNK_BYTES = 1 << 18
RAW_SHOWN = 4 * TEXT_SHOWN
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
Notes = Counter[str]


@dataclass(frozen=True, slots=True)
class Piece:
    """The bytes of one row before they are parsed; `content` is only the beginning where they are `too_large`, and `sha256`
    of all of them."""

    line: int
    content: bytes
    too_large: bool = False
    torn: bool = False
    sha256: str | None = None


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; Unusable (duplicate_key) if it names a key twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        raise Unusable("duplicate_key", f"the key {twice[0]!a} stands twice in one object")
    return found


def refuse_constant(word: str) -> float:
    """NaN and Infinity are not JSON, whatever Python thinks."""
    raise Unusable("non_finite_score", f"the row holds {word}, which is not JSON")


DECODER = JSONDecoder(object_pairs_hook=unique_keys, parse_constant=refuse_constant)


def parse_object(content: bytes, torn: bool) -> dict[str, Any]:
    """The object that a line holds; Unusable with the reason if it holds none."""
    try:
        value = DECODER.decode(content.decode())
    except UnicodeDecodeError as error:
        raise Unusable("torn_tail" if torn else "invalid_utf8", f"byte {error.start} is not UTF-8") from None
    except RecursionError:
        raise Unusable("malformed_json", "the row is nested too deeply to be parsed") from None
    except ValueError as error:
        reason, what = ("torn_tail", "the last line stops early: ") if torn else ("malformed_json", "")
        raise Unusable(reason, f"{what}{str(error)[:200]}") from None
    if not isinstance(value, dict):
        raise Unusable("not_an_object", f"the row is a {type(value).__name__}, not an object with named fields")
    return value


def json_rows(name: str, pieces: Iterator[Piece]) -> Iterator[Row]:
    """Each piece as a row, parsed or with its problem; pieces that are too large are not parsed."""
    for piece in pieces:
        raw = piece.content[:RAW_SHOWN].rstrip(b"\r\n")
        if piece.too_large:
            detail = f"the row has more than {MAX_LINE_BYTES} bytes and was not parsed"
            yield Row(name, piece.line, raw, None, Unusable("too_large", detail), piece.sha256)
            continue
        name_of_bytes = sha256(piece.content)
        try:
            yield Row(name, piece.line, raw, parse_object(piece.content, piece.torn), None, name_of_bytes)
        except Unusable as problem:
            yield Row(name, piece.line, raw, None, problem, name_of_bytes)


def bounded_lines(file: BinaryIO, notes: Notes) -> Iterator[Piece]:
    """The lines of a file with their ends; of a line beyond 4 MiB only the beginning is kept."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 2):
        number += 1
        torn = not line.endswith(b"\n")
        if number == 1 and line.startswith(BYTE_ORDER_MARK):
            notes["byte_order_mark"] += 1
            line = line.removeprefix(BYTE_ORDER_MARK)
        if len(line.rstrip(b"\r\n")) <= MAX_LINE_BYTES:
            yield Piece(number, line, torn=torn)
            continue
        hasher = hashlib.sha256(line)
        while torn and (rest := file.readline(CHUNK_BYTES)):
            torn = not rest.endswith(b"\n")
            hasher.update(rest)
        yield Piece(number, line[:RAW_SHOWN], too_large=True, sha256=hasher.hexdigest())


def jsonl_rows(path: Path, name: str, notes: Notes) -> Iterator[Row]:
    """The rows of a JSONL file; blank lines are skipped and noted, a CR before LF is no part of a line."""

    def filled(pieces: Iterator[Piece]) -> Iterator[Piece]:
        for piece in pieces:
            notes["crlf"] += piece.content.endswith(b"\r\n")
            if piece.content.isspace() or not piece.content:
                notes["blank_line"] += 1
            else:
                yield piece

    with path.open("rb") as file:
        yield from json_rows(name, filled(bounded_lines(file, notes)))


def is_json(text: bytes) -> bool:
    """Whether bytes hold exactly one JSON value."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
