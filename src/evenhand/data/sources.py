"""Where rows come from: one file, a folder of parts, a `datasets` folder or a hub; all checked before any is read."""

import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from evenhand.data.elements import array_rows
from evenhand.data.lines import BYTE_ORDER_MARK, Notes, is_json, jsonl_rows
from evenhand.data.records import csv_rows
from evenhand.data.rows import Row
from evenhand.data.tables import batch_rows, refuse_drift, saved_files, table_rows
from evenhand.errors import DataError

JSON_LINES = (".jsonl", ".ndjson")
TABLES = (".parquet", ".arrow")
SUFFIXES = (*JSON_LINES, ".json", ".csv", *TABLES)
PACKED = {
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
}
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
HEAD_BYTES = 1 << 16
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")
SHARD = re.compile(r"[-_.]?\d+([-_]of[-_]\d+)?$")
SPLITS = {"train", "validation", "valid", "val", "dev", "eval", "test"}


def source_rows(source: str | Path, notes: Notes) -> Iterator[Row]:
    """Every row of a source in order; what was normalised on the way is counted in `notes`.

    Raises DataError before the first row if the source is missing, is no plain file or folder, is compressed, or if
    its parts do not fit together.
    """
    path = Path(source)
    if not os.path.lexists(path) and HUB_ID.fullmatch(str(source)) and path.suffix not in SUFFIXES:
        return hub_rows(str(source))
    if path.is_symlink() or not path.is_dir():
        parts = [path]
    else:
        parts = saved_files(path) if is_saved(path) else folder_parts(path)
    readers = [reader_of(part) for part in parts]
    if len(parts) > 1 and parts[0].suffix in TABLES:
        refuse_drift(parts)
    return (row for part, read in zip(parts, readers) for row in read(part, str(part), notes))


def is_saved(path: Path) -> bool:
    """Whether a folder was written by `datasets`' `save_to_disk`."""
    return (path / "dataset_dict.json").is_file() or (
        (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    )


def folder_parts(folder: Path) -> list[Path]:
    """The parts of a folder by name; raises DataError if they are of two formats or of two splits."""
    parts = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and not path.name.startswith("."))
    parts = [path for path in parts if path.suffix != ".json"] or parts
    if not parts:
        raise DataError(f"{folder}: the folder holds no {', '.join(SUFFIXES)} file; name the file with the rows.")
    suffixes = sorted({path.suffix for path in parts})
    if len(suffixes) > 1:
        raise DataError(f"{folder}: the folder holds {' and '.join(suffixes)} files; name the file with the rows.")
    splits = sorted({SHARD.sub("", path.stem).lower() for path in parts})
    if len(splits) > 1 and SPLITS.intersection(splits):
        raise DataError(f"{folder}: the folder holds the splits {', '.join(splits)}; name the file of one of them.")
    return parts


def reader_of(path: Path) -> Callable[[Path, str, Notes], Iterator[Row]]:
    """The function that reads a file's rows; raises DataError if the file may not or cannot be read."""
    refuse_unplain(path)
    head = head_of(path)
    suffix = path.suffix.lower()
    if suffix in TABLES or head.startswith((b"PAR1", b"ARROW1")):
        return read_table
    text = head.removeprefix(BYTE_ORDER_MARK).lstrip()
    if suffix == ".csv":
        return csv_rows
    if text.startswith(b"[") and suffix not in JSON_LINES:
        return array_rows
    if suffix in JSON_LINES or text.startswith(b"{"):
        refuse_one_value(path, text)
        return jsonl_rows
    raise DataError(f"{path}: the format is not known; evenhand reads {', '.join(SUFFIXES)} files.")


def read_table(path: Path, name: str, notes: Notes) -> Iterator[Row]:
    """The rows of a Parquet or Arrow file, in which nothing is ever normalised."""
    del notes
    return table_rows(path, name)


def refuse_unplain(path: Path) -> None:
    """Raises DataError for what is missing or not a plain file: links, pipes and devices are not followed."""
    try:
        mode = path.lstat().st_mode
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: there is no such file or folder ({error}); check the path.") from error
    if stat.S_ISREG(mode):
        return
    what = "a symbolic link" if stat.S_ISLNK(mode) else "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
    raise DataError(f"{path}: this is {what}, not a plain file; name the file itself.")


def head_of(path: Path) -> bytes:
    """A file's beginning; raises DataError if there is none, or if it is packed or UTF-16."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise DataError(f"{path}: the file cannot be opened ({error.strerror}); check its permissions.") from error
    for magic, what in PACKED.items():
        if head.startswith(magic):
            raise DataError(f"{path}: the file is packed ({what}), which may unpack to any size; unpack it first.")
    if head.startswith(UTF16_MARKS):
        raise DataError(f"{path}: the file is UTF-16; save it as UTF-8.")
    if len(head) < HEAD_BYTES and not head.removeprefix(BYTE_ORDER_MARK).strip():
        raise DataError(f"{path}: the file is empty; there is no row to read.")
    return head


def refuse_one_value(path: Path, text: bytes) -> None:
    """Raises DataError if a file of lines is one JSON value written over several lines, or one array of rows."""
    first, _, rest = text.partition(b"\n")
    alone = is_json(first)
    if text.startswith(b"[") and not (alone and rest.strip()) and last_byte(path) == b"]":
        raise DataError(f"{path}: the file is one JSON array, not one object a line; name it .json, or write lines.")
    if text.startswith(b"{") and not alone and len(text) < HEAD_BYTES and rest.strip() and is_json(text):
        raise DataError(f"{path}: the file is one JSON object over several lines; write one object a line.")


def last_byte(path: Path) -> bytes:
    """The last byte of a file that is not whitespace, of its last 64 KiB."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - HEAD_BYTES))
        return file.read().rstrip()[-1:]


def hub_rows(name: str) -> Iterator[Row]:
    """The rows of a data set on a hub, `owner/name` or `owner/name:split`; raises DataError if no hub answers."""
    # `datasets` takes seconds to import and most sources are files.
    from datasets import load_dataset  # noqa: PLC0415

    repository, _, split = name.partition(":")
    try:
        found = load_dataset(repository, split=split or None)
    except Exception as error:  # The hub's clients raise a dozen unrelated types when the network is away.
        raise DataError(
            f"{name}: there is no such file, and as a data set on a hub it cannot be had ({type(error).__name__}); "
            "a hub is needed for that name, a local file or folder works without one."
        ) from error
    if not split:
        found = only_split(found, name)
    return (row for batch in arrow_batches(found) for row in batch_rows(batch, name))


def only_split(splits: dict[str, Any], name: str) -> Any:
    """The one split there is; raises DataError that names them if there are several."""
    names: Sequence[str] = list(splits)
    if len(names) != 1:
        raise DataError(f"{name}: the data set has the splits {', '.join(names)}; name one: {name}:{names[0]}.")
    return splits[names[0]]


def arrow_batches(found: Any) -> Iterator[Any]:
    """A data set's rows as record batches."""
    for table in found.with_format("arrow").iter(batch_size=256):
        yield from table.to_batches()
