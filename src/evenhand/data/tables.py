"""Parquet and Arrow files, read in small batches; parts of one table must agree in every column's type."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

from evenhand.data.reasons import Unusable
from evenhand.data.rows import Row
from evenhand.errors import DataError

BATCH_ROWS = 256
ARROW_FILE = b"ARROW1"


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns what pyarrow says about a broken file into a DataError."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: the file is broken or is not what its name says ({str(error)[:200]}); write it again."
        ) from error


def schema_of(path: Path) -> pa.Schema:
    """The columns and types of a Parquet or Arrow file."""
    with readable(path):
        if path.suffix == ".parquet":
            return pq.read_schema(path)
        with pa.OSFile(str(path)) as source:
            return open_arrow(path, source).schema


def open_arrow(path: Path, source: Any) -> Any:
    """A reader of an Arrow file or stream, whichever the first bytes say."""
    with path.open("rb") as file:
        is_file = file.read(len(ARROW_FILE)) == ARROW_FILE
    return ipc.open_file(source) if is_file else ipc.open_stream(source)


def refuse_drift(paths: Sequence[Path]) -> None:
    """Raises DataError that lists the differing fields if two parts do not have the same columns and types."""
    first = columns_of(paths[0])
    for path in paths[1:]:
        other = columns_of(path)
        differing = [
            f"{name} ({first.get(name, 'absent')} / {other.get(name, 'absent')})"
            for name in dict.fromkeys((*first, *other))
            if first.get(name) != other.get(name)
        ]
        if differing:
            raise DataError(
                f"{path}: the columns differ from those of {paths[0].name}: {', '.join(differing)}; "
                "write all parts with one schema."
            )


def columns_of(path: Path) -> dict[str, str]:
    """Each column's type in words."""
    return {field.name: str(field.type) for field in schema_of(path)}


def table_rows(path: Path, name: str) -> Iterator[Row]:
    """The rows of a Parquet or Arrow file."""
    with readable(path):
        yield from (row for batch in batches(path) for row in batch_rows(batch, name))


def batches(path: Path) -> Iterator[pa.RecordBatch]:
    """A file's rows in batches of at most 256."""
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=BATCH_ROWS)
        return
    with pa.OSFile(str(path)) as source:
        reader = open_arrow(path, source)
        whole = (
            (reader.get_batch(i) for i in range(reader.num_record_batches))
            if isinstance(reader, ipc.RecordBatchFileReader)
            else reader
        )
        for batch in whole:
            for start in range(0, batch.num_rows, BATCH_ROWS):
                yield batch.slice(start, BATCH_ROWS)


def batch_rows(batch: pa.RecordBatch, name: str) -> Iterator[Row]:
    """The rows of one batch; one that holds text that is not UTF-8 has a problem instead of fields."""
    try:
        rows = batch.to_pylist()
    except UnicodeDecodeError as error:
        if batch.num_rows == 1:
            yield Row(name, None, b"", None, Unusable("invalid_utf8", str(error)))
            return
        for index in range(batch.num_rows):
            yield from batch_rows(batch.slice(index, 1), name)
        return
    for fields in rows:
        yield Row(name, None, b"", fields)


def saved_files(folder: Path) -> list[Path]:
    """The Arrow files of a folder written by `datasets`' `save_to_disk`, in order.

    Raises DataError if the folder holds several splits or its list of files is not one of plain names inside it.
    """
    if (splits_file := folder / "dataset_dict.json").exists():
        splits = [str(name) for name in read_list(splits_file, "splits")]
        if len(splits) != 1 or not (folder / splits[0]).is_dir() or "/" in splits[0]:
            raise DataError(f"{folder}: the folder holds the splits {splits}; name one of them: {folder}/SPLIT.")
        folder = folder / splits[0]
    entries = read_list(folder / "state.json", "_data_files")
    names = [str(entry.get("filename")) if isinstance(entry, dict) else "" for entry in entries]
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise DataError(f"{folder}/state.json: {name!r} is no file in that folder; save the data set again.")
    return [folder / name for name in names]


def read_list(path: Path, key: str) -> list[Any]:
    """A list kept under `key` in a JSON file."""
    try:
        value = json.loads(path.read_bytes())[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: `{key}` cannot be read ({error}); save the data set again.") from error
    if not isinstance(value, list):
        raise DataError(f"{path}: `{key}` is no list; save the data set again.")
    return value
