"""A CSV file cut into records under its header; every field stays the text that it is."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from evenhand.data.fields import refuse_surrogates
from evenhand.data.lines import MAX_LINE_BYTES, RAW_SHOWN, Notes, bounded_lines
from evenhand.data.reasons import Unusable
from evenhand.data.rows import Row
from evenhand.errors import DataError


def csv_rows(path: Path, name: str, notes: Notes) -> Iterator[Row]:
    """The records of a CSV file; raises DataError if its header names a column twice or cannot be read."""
    oversize: list[int] = []
    limit_before = csv.field_size_limit(MAX_LINE_BYTES)
    try:
        with path.open("rb") as file:
            records = csv.reader(decoded_lines(file, notes, oversize), strict=True)
            header = csv_header(records, name)
            while (row := next_row(records, header, name, oversize)) is not None:
                if row.fields == {}:
                    notes["blank_line"] += 1
                else:
                    yield row
    finally:
        csv.field_size_limit(limit_before)


def csv_header(records: Any, name: str) -> list[str]:
    """The column names in the first record."""
    try:
        header: list[str] = next(records)
    except (csv.Error, StopIteration) as error:
        raise DataError(f"{name}: the first line is no CSV header ({error}); name the columns there.") from None
    if len(set(header)) != len(header):
        raise DataError(f"{name}: the header names a column twice: {header}; give each column a name of its own.")
    return header


def next_row(records: Any, header: list[str], name: str, oversize: list[int]) -> Row | None:
    """The next record as a row, with its problem if it has one; None at the end, no fields for a blank line."""
    line = records.line_num + 1
    oversize.clear()
    record: list[str] = []
    try:
        record = next(records)
        if oversize:
            raise Unusable("too_large", f"line {oversize[0]} has more than {MAX_LINE_BYTES} bytes")
        return Row(name, line, shown(record), named_fields(header, record))
    except StopIteration:
        return None
    except csv.Error as error:
        return Row(name, line, b"", None, Unusable(csv_reason(str(error)), str(error)))
    except Unusable as problem:
        return Row(name, line, shown(record), None, problem)


def csv_reason(message: str) -> str:
    """The reason code for what the CSV parser says."""
    if "unexpected end" in message:
        return "torn_tail"
    return "too_large" if "field limit" in message else "malformed_csv"


def shown(record: list[str]) -> bytes:
    """The beginning of a record, for the ledger."""
    return ",".join(record)[:RAW_SHOWN].encode("utf-8", "surrogateescape")


def named_fields(header: list[str], record: list[str]) -> dict[str, Any]:
    """A record as fields; what a short record lacks is absent, a long one is Unusable (malformed_csv)."""
    if len(record) > len(header):
        raise Unusable("malformed_csv", f"the record has {len(record)} fields and the header {len(header)}")
    for column, value in zip(header, record):
        if not value.isascii():
            refuse_surrogates(value, column)
    return dict(zip(header, record))


def decoded_lines(file: BinaryIO, notes: Notes, oversize: list[int]) -> Iterator[str]:
    """Lines for the CSV parser; a byte that is not UTF-8 becomes a lone surrogate, for which its record is refused.

    A line beyond 4 MiB is handed on as its beginning, without quotes, and its number is put into `oversize`.
    """
    for piece in bounded_lines(file, notes):
        if piece.too_large:
            oversize.append(piece.line)
            yield piece.content.replace(b'"', b"").decode("utf-8", "surrogateescape") + "\n"
        else:
            yield piece.content.decode("utf-8", "surrogateescape")
