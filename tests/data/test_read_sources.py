"""Files and folders of every format; what may not be read is refused before its first row."""

import json
import os
from datetime import date, datetime
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest

from evenhand.data.ledger import totals
from evenhand.data.read import read_judgments, read_pairs
from evenhand.data.schema import Message, PreferencePair
from evenhand.errors import DataError

ROWS = [{"id": f"r{i}", "prompt": "p", "chosen": f"x{i}", "rejected": "y\r\n,\"'é"} for i in range(600)]
TABLE = pa.Table.from_pylist(ROWS)


def write_csv(path: Path) -> None:
    quoted = "\n".join(",".join('"' + str(v).replace('"', '""') + '"' for v in row.values()) for row in ROWS)
    path.write_bytes(f"id,prompt,chosen,rejected\n{quoted}\n".encode())


def write_stream(path: Path) -> None:
    with ipc.new_stream(path, TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=100)


def write_arrow(path: Path) -> None:
    with ipc.new_file(path, TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=100)


FORMATS: dict[str, Any] = {
    "rows.jsonl": lambda path: path.write_text("".join(json.dumps(row) + "\n" for row in ROWS)),
    "rows.ndjson": lambda path: path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)),
    "rows.json": lambda path: path.write_text(json.dumps(ROWS, indent=2)),
    "lines.json": lambda path: path.write_text("".join(json.dumps(row) + "\n" for row in ROWS)),
    "rows": lambda path: path.write_text(json.dumps(ROWS)),
    "rows.csv": write_csv,
    "rows.parquet": lambda path: pq.write_table(TABLE, path, row_group_size=250),
    "large.parquet": lambda path: pq.write_table(
        TABLE.cast(pa.schema([(name, pa.large_string()) for name in TABLE.column_names])), path
    ),
    "dictionary.parquet": lambda path: pq.write_table(
        TABLE.set_column(1, "prompt", TABLE["prompt"].dictionary_encode()), path
    ),
    "stream.arrow": write_stream,
    "file.arrow": write_arrow,
    "saved": lambda path: datasets.Dataset(TABLE).save_to_disk(path, num_shards=2),
    "split": lambda path: datasets.DatasetDict(train=datasets.Dataset(TABLE)).save_to_disk(path),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    FORMATS[name](tmp_path / name)
    reading = read_judgments(tmp_path / name)
    assert (reading.kind, reading.rows_in, reading.refusals, reading.notes) == ("pairwise", 600, (), ())
    assert [(j.id, j.row, j.answer_a, j.answer_b) for j in reading.judgments] == [
        (row["id"], index, row["chosen"], row["rejected"]) for index, row in enumerate(ROWS)
    ]


PAIRS = tuple(
    PreferencePair(
        id=f"own-{i}#1",
        row=40 + i,
        group=f"g{i // 2}",
        prompt=(Message("system", "Be kind."), Message("user", f"Where is parcel {i}?")),
        chosen=f"  It arrives on day {i}.\n",
        rejected="No idea \U0001f937\u200d\u2642\ufe0f",
        category=None if i % 2 else "delivery",
        family=None if i == 3 else f"f{i}",
    )
    for i in range(5)
)
SNAPSHOTS: dict[str, Any] = {
    "pairs.parquet": lambda path, rows: pq.write_table(pa.Table.from_pylist(rows), path),
    "pairs.jsonl": lambda path, rows: path.write_text("".join(json.dumps(row) + "\n" for row in rows)),
    "folder": lambda path, rows: datasets.Dataset.from_list(rows).save_to_disk(path),
}


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_snapshot_comes_back_as_it_was(tmp_path: Path, name: str) -> None:
    SNAPSHOTS[name](tmp_path / name, [pair.json() for pair in PAIRS])
    reading, pairs = read_pairs(tmp_path / name)
    assert reading.kind == "pairwise_messages"
    assert [pair.row for pair in pairs] == list(range(5)), "a row is a row of the file that was read"
    assert [{**pair.json(), "row": 0} for pair in pairs] == [{**pair.json(), "row": 0} for pair in PAIRS]


def write_shards(folder: Path, names: list[str]) -> None:
    folder.mkdir()
    for index, name in enumerate(names):
        part = ROWS[index * 10 : index * 10 + 10]
        if name.endswith("parquet"):
            pq.write_table(pa.Table.from_pylist(part), folder / name)
        else:
            (folder / name).write_text("".join(json.dumps(row) + "\n" for row in part))


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_parts_of_a_folder_are_read_in_order_with_one_count_of_rows(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "shards"
    write_shards(folder, [f"train-0000{i}-of-00003.{suffix}" for i in range(3)])
    (folder / "README.md").write_text("not data")
    if suffix == "jsonl":
        with (folder / f"train-00001-of-00003.{suffix}").open("a") as file:
            file.write("torn")
    reading = read_judgments(folder)
    totals(reading)
    chosen = [j.answer_a for j in reading.judgments]
    assert chosen == [row["chosen"] for row in ROWS[:30]]
    assert [(r.row, r.line, Path(r.file).name) for r in reading.refusals] == (
        [(20, 11, "train-00001-of-00003.jsonl")] if suffix == "jsonl" else []
    )


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["train.parquet", "validation.parquet"], "the splits train, validation"),
        (["train-00000.parquet", "test-00000.parquet"], "the splits test, train"),
        (["a.parquet", "b.jsonl"], r"\.jsonl and \.parquet files"),
        ([], "holds no"),
    ],
)
def test_folder_that_is_not_one_table(tmp_path: Path, names: list[str], words: str) -> None:
    write_shards(tmp_path / "folder", names)
    with pytest.raises(DataError, match=words):
        read_judgments(tmp_path / "folder")


STRUCT = pa.struct([("role", pa.string()), ("content", pa.string())])
DRIFTS = [
    (
        pa.schema([("prompt", pa.string()), ("n", pa.int32())]),
        pa.schema([("prompt", pa.string()), ("n", pa.int64())]),
        "n",
    ),
    (pa.schema([("prompt", pa.string())]), pa.schema([("prompt", pa.large_string())]), "prompt"),
    (pa.schema([("prompt", pa.string())]), pa.schema([("prompt", pa.dictionary(pa.int32(), pa.string()))]), "prompt"),
    (pa.schema([("prompt", STRUCT)]), pa.schema([("prompt", pa.list_(STRUCT))]), "prompt"),
    (pa.schema([("prompt", pa.string())]), pa.schema([("prompt", pa.string()), ("more", pa.string())]), "more"),
    (pa.schema([("prompt", pa.string()), ("less", pa.string())]), pa.schema([("prompt", pa.string())]), "less"),
]


@pytest.mark.parametrize(("first", "second", "field"), DRIFTS, ids=[str(d[1][-1].type) for d in DRIFTS])
def test_parts_that_drift_apart_fail_before_a_row_is_used(
    tmp_path: Path, first: pa.Schema, second: pa.Schema, field: str
) -> None:
    for index, schema in enumerate((first, second)):
        pq.write_table(schema.empty_table(), tmp_path / f"part-{index}.parquet")
    with pytest.raises(
        DataError, match=rf"part-1\.parquet: the columns differ from those of part-0\.parquet: {field} \("
    ):
        read_judgments(tmp_path)


def test_several_saved_splits_must_be_chosen_from(tmp_path: Path) -> None:
    part = datasets.Dataset(TABLE)
    datasets.DatasetDict(train=part, test=part).save_to_disk(tmp_path / "both")
    with pytest.raises(DataError, match=r"the splits \['train', 'test'\]; name one of them"):
        read_judgments(tmp_path / "both")
    assert read_judgments(tmp_path / "both" / "test").rows_used == 600


def test_saved_folder_may_not_name_files_outside_itself(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    datasets.Dataset(TABLE).save_to_disk(folder)
    write_arrow(tmp_path / "secret.arrow")
    state = json.loads((folder / "state.json").read_text())
    state["_data_files"] = [{"filename": "../secret.arrow"}]
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match="is no file in that folder"):
        read_judgments(folder)


def write_fifo(path: Path) -> None:
    os.mkfifo(path)


def write_linked_folder(path: Path) -> None:
    datasets.Dataset(TABLE).save_to_disk(path.with_name("saved"))
    path.symlink_to(path.with_name("saved"))


def write_link(path: Path) -> None:
    path.with_name("target.jsonl").write_text(json.dumps(ROWS[0]))
    path.symlink_to(path.with_name("target.jsonl"))


UNREADABLE: dict[str, tuple[str, Any, str]] = {
    "missing": ("none.jsonl", lambda path: None, "no such file or folder"),
    "link": ("rows.jsonl", write_link, "a symbolic link"),
    "linked_folder": ("saved_link", write_linked_folder, "a symbolic link"),
    "dangling": ("rows.jsonl", lambda path: path.symlink_to("nowhere"), "a symbolic link"),
    "pipe": ("rows.jsonl", write_fifo, "a pipe or a device"),
    "folder": ("rows.jsonl", lambda path: path.mkdir(), "holds no"),
    "gzip": ("rows.jsonl", lambda path: path.write_bytes(b"\x1f\x8b\x08\0"), r"packed \(gzip\)"),
    "zip": ("rows.parquet", lambda path: path.write_bytes(b"PK\x03\x04"), r"packed \(a zip archive\)"),
    "utf16": ("rows.jsonl", lambda path: path.write_bytes("{}".encode("utf-16")), "UTF-16"),
    "empty": ("rows.jsonl", lambda path: path.write_bytes(b""), "is empty"),
    "blank": ("rows.csv", lambda path: path.write_bytes(b"\xef\xbb\xbf \n\n"), "is empty"),
    "header": ("rows.csv", lambda path: path.write_bytes(b"prompt,chosen,rejected\n"), "no row could be parsed"),
    "header_twice": ("rows.csv", lambda path: path.write_bytes(b"prompt,prompt\n"), "names a column twice"),
    "header_torn": ("rows.csv", lambda path: path.write_bytes(b'prompt,"chosen'), "no CSV header"),
    "empty_array": ("rows.json", lambda path: path.write_bytes(b"[ \n ]"), "no row could be parsed"),
    "array_in_jsonl": ("rows.jsonl", lambda path: path.write_text(json.dumps(ROWS)), "one JSON array"),
    "tall_array": ("rows.jsonl", lambda path: path.write_text(json.dumps(ROWS, indent=1)), "one JSON array"),
    "two_arrays": ("rows.json", lambda path: path.write_text(json.dumps(ROWS) * 2), "more text follows"),
    "object": ("rows.json", lambda path: path.write_text(json.dumps({"rows": ROWS[:9]}, indent=1)), "one JSON object"),
    "unknown": ("rows.txt", lambda path: path.write_text("prompt"), "format is not known"),
    "broken": ("rows.parquet", lambda path: path.write_bytes(b"PAR1 no more"), "is broken"),
    "not_parquet": ("rows.parquet", lambda path: path.write_text(json.dumps(ROWS[0])), "is broken"),
    "not_arrow": ("rows.arrow", lambda path: path.write_text(json.dumps(ROWS[0])), "is broken"),
    "no_rows": ("rows.parquet", lambda path: pq.write_table(TABLE[:0], path), "no row could be parsed"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_source_that_fails_as_a_whole(tmp_path: Path, case: str) -> None:
    name, make, words = UNREADABLE[case]
    make(tmp_path / name)
    with pytest.raises(DataError, match=words) as caught:
        read_judgments(tmp_path / name)
    assert str(tmp_path) in str(caught.value)


def test_device_is_not_read() -> None:
    with pytest.raises(DataError, match="a pipe or a device"):
        read_judgments("/dev/zero")


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.99])
@pytest.mark.parametrize("name", ["rows.parquet", "file.arrow", "stream.arrow"])
def test_truncated_table_is_broken(tmp_path: Path, name: str, cut: float) -> None:
    FORMATS[name](tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(len(whole) * cut)])
    with pytest.raises(DataError, match=r"is broken"):
        read_judgments(tmp_path / name)


def test_hub_name_without_a_hub_says_what_works() -> None:
    with pytest.raises(DataError, match=r"nobody/nothing: .*a hub is needed .* local file"):
        read_judgments("nobody/nothing")


def test_text_of_a_table_that_is_not_utf8_costs_one_row(tmp_path: Path) -> None:
    answers = pa.array([b"x", b"\xff\xfe", b"z"]).view(pa.string())
    table = pa.table({"prompt": ["p"] * 3, "chosen": answers, "rejected": ["y"] * 3})
    pq.write_table(table, tmp_path / "rows.parquet")
    reading = read_judgments(tmp_path / "rows.parquet")
    totals(reading)
    assert [(r.reason, r.row, r.line) for r in reading.refusals] == [("invalid_utf8", 1, None)]
    assert [j.answer_a for j in reading.judgments] == ["x", "z"]


def test_null_in_a_table_is_refused_and_shown(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["p", "p"], "chosen": ["x", None], "rejected": ["y", "y"]})
    pq.write_table(table, tmp_path / "rows.parquet")
    (refusal,) = read_judgments(tmp_path / "rows.parquet").refusals
    assert (refusal.reason, refusal.row) == ("null_value", 1)
    assert json.loads(refusal.text) == {"prompt": "p", "chosen": None, "rejected": "y"}


def test_what_looks_like_a_number_or_a_date_stays_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("id,prompt,answer_a,answer_b,verdict,time\n007,1e5,2024-01-05,+1.50,a,2024-01-05\n")
    (judgment,) = read_judgments(path).judgments
    assert (judgment.id, judgment.prompt[0].content, judgment.time) == ("007", "1e5", "2024-01-05")
    assert (judgment.answer_a, judgment.answer_b) == ("2024-01-05", "+1.50")


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2024, 1, 5, 13, 30), "2024-01-05T13:30:00"),
        (date(2024, 1, 5), "2024-01-05"),
        (1704461400, "1704461400"),
    ],
)
def test_moment_of_a_table_keeps_its_value(tmp_path: Path, moment: Any, text: str) -> None:
    row = {"prompt": "p", "answer_a": "x", "answer_b": "y", "verdict": "a", "time": moment}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "rows.parquet")
    assert read_judgments(tmp_path / "rows.parquet").judgments[0].time == text


def test_csv_keeps_line_ends_inside_quotes_and_skips_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b'\xef\xbb\xbfprompt,chosen,rejected\r\n"p\r\nq",x,y\r\n\r\np,z,y\r\n')
    reading = read_judgments(path)
    assert [(j.prompt[0].content, j.answer_a) for j in reading.judgments] == [("p\r\nq", "x"), ("p", "z")]
    assert reading.notes == ("blank lines skipped: 1", "byte order marks removed: 1")


def test_long_text_of_a_csv_field_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"prompt,chosen,rejected\np,{'x' * 500_000},y\n")
    assert len(read_judgments(path).judgments[0].answer_a) == 500_000
