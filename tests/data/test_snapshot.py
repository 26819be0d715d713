"""Snapshots: whole or not at all, verified when read, readable by datasets, the same hash for any row order."""

import json
import random
import subprocess
import sys
from dataclasses import replace

import pytest
from datasets import load_dataset

from evenhand.data.audit import audit
from evenhand.data.bench import CurationRules
from evenhand.data.curate import curate
from evenhand.data.schema import Judgment, Message, Reading, Refusal
from evenhand.data.snapshot import Parents, Source, read_snapshot, snapshot_refusals, write_snapshot
from evenhand.data.split import split
from evenhand.errors import DataError
from evenhand.files import canonical_json, sha256

PARENTS = Parents((Source("votes.jsonl", "ab" * 32, "judgments", 41),), "CC0-1.0", "written for this test")
RULES = CurationRules(near_duplicates=False)


def reading(order=None):
    random_ = random.Random(0)
    rows = []
    for row in range(40):
        asked = (Message("system", "Be kind."), Message("user", f"{random_.getrandbits(64):x} ünïcode?"))
        verdict = "tie" if row % 10 == 0 else random_.choice("ab")
        rows.append(Judgment(f"j{row}", row, f"{row}", asked, "x" * (row + 1), "long " * row + "y", verdict, "ann"))
    if order is not None:
        random.Random(order).shuffle(rows)
    refused = (Refusal("votes.jsonl", 41, 40, "empty", "`chosen` is empty", '{"chosen": ""}'),)
    return Reading("votes.jsonl", "judgments", 41, tuple(rows), refused)


def made(source, seed=0):
    curation = curate(source, RULES)
    return split(curation.pairs, 0.2, seed), curation, audit(source), PARENTS


def test_everything_is_in_the_folder(tmp_path):
    parts = made(reading())
    dataset = write_snapshot(tmp_path / "new" / "set", *parts)
    folder = tmp_path / "new" / "set"
    names = ["card.md", "dataset.json", "ledger.jsonl", "train.parquet", "validation.parquet"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert [path.name for path in folder.parent.iterdir()] == ["set"]
    assert json.loads((folder / "dataset.json").read_text()) == dataset
    assert dataset["rows"] == {"in": 41, "used": 40, "refused": {"empty": 1}}
    assert dataset["counts"] == {"judgments": 40, "kept": 36, "pairs": 36, "dropped": {"tie": 4}}
    assert dataset["parents"]["licence"] == "CC0-1.0"
    assert dataset["split"]["seed"] == 0
    card = (folder / "card.md").read_text()
    assert dataset["hash"] in card
    assert "CC0-1.0" in card
    assert "| tie | 4 |" in card


def test_ledger_has_a_line_for_every_judgment_and_refusal(tmp_path):
    parts = made(reading())
    write_snapshot(tmp_path / "set", *parts)
    lines = [json.loads(line) for line in (tmp_path / "set" / "ledger.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == list(range(41))
    assert [line["outcome"] for line in lines].count("kept") == 36
    assert lines[40]["outcome"] == "refused"
    assert lines[40]["reason"] == "empty"
    assert snapshot_refusals(tmp_path / "set") == reading().refusals


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85"])
def test_a_refused_row_with_a_line_break_of_unicode_is_read_back(tmp_path, mark):
    whole = reading()
    refused = (replace(whole.refusals[0], text=f'{{"chosen": "a{mark}b"}}'),)
    write_snapshot(tmp_path / "set", *made(replace(whole, refusals=refused)))
    assert snapshot_refusals(tmp_path / "set") == refused


def test_reading_gives_back_the_split(tmp_path):
    parts = made(reading())
    write_snapshot(tmp_path / "set", *parts)
    found = read_snapshot(tmp_path / "set")
    assert (found.train, found.validation) == (parts[0].train, parts[0].validation)


def test_hash_by_an_independent_computation_and_any_row_order(tmp_path):
    parts = made(reading())
    dataset = write_snapshot(tmp_path / "set", *parts)
    digests = []
    for side, pairs in (("train", parts[0].train), ("validation", parts[0].validation)):
        for pair in pairs:
            told = {
                "side": side,
                "prompt": [{"role": turn.role, "content": turn.content} for turn in pair.prompt],
                "chosen": [{"role": "assistant", "content": pair.chosen}],
                "rejected": [{"role": "assistant", "content": pair.rejected}],
                "category": pair.category,
                "family": pair.family,
            }
            digests.append(sha256(canonical_json(told)))
    assert dataset["hash"] == sha256("\n".join(sorted(digests)).encode())
    again = write_snapshot(tmp_path / "again", *made(reading(order=5)))
    assert again["hash"] == dataset["hash"]
    other = write_snapshot(tmp_path / "other", *made(reading(), seed=1))
    assert other["hash"] != dataset["hash"]


def test_datasets_reads_it(tmp_path):
    parts = made(reading())
    write_snapshot(tmp_path / "set", *parts)
    files = {"train": str(tmp_path / "set/train.parquet"), "validation": str(tmp_path / "set/validation.parquet")}
    loaded = load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert loaded["train"].to_list() == [pair.json() for pair in parts[0].train]
    assert loaded["validation"].num_rows == len(parts[0].validation)


def test_same_content_again_is_left_alone_and_other_content_is_refused(tmp_path):
    first = write_snapshot(tmp_path / "set", *made(reading()))
    stamp = (tmp_path / "set" / "train.parquet").stat().st_mtime_ns
    assert write_snapshot(tmp_path / "set", *made(reading())) == first
    assert (tmp_path / "set" / "train.parquet").stat().st_mtime_ns == stamp
    with pytest.raises(DataError, match="holds something else"):
        write_snapshot(tmp_path / "set", *made(reading(), seed=1))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    with pytest.raises(DataError, match="holds something else"):
        write_snapshot(tmp_path / "mine", *made(reading()))
    (tmp_path / "bare").mkdir()
    assert write_snapshot(tmp_path / "bare", *made(reading()))["hash"] == first["hash"]


@pytest.mark.parametrize("name", ["train.parquet", "validation.parquet", "ledger.jsonl"])
def test_a_changed_or_missing_file_is_noticed(tmp_path, name):
    write_snapshot(tmp_path / "set", *made(reading()))
    path = tmp_path / "set" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=name):
        read_snapshot(tmp_path / "set")
    path.unlink()
    with pytest.raises(DataError, match=name):
        read_snapshot(tmp_path / "set")


def test_a_swapped_hash_is_noticed(tmp_path):
    write_snapshot(tmp_path / "set", *made(reading()))
    path = tmp_path / "set" / "dataset.json"
    dataset = json.loads(path.read_text())
    path.write_text(json.dumps(dataset | {"hash": "0" * 64}))
    with pytest.raises(DataError, match=r"dataset\.json says 0000"):
        read_snapshot(tmp_path / "set")
    path.write_text(json.dumps(dataset | {"schema_version": 99}))
    with pytest.raises(DataError, match="schema version 99"):
        read_snapshot(tmp_path / "set")
    path.write_text("[]")
    with pytest.raises(DataError, match="not a data set of evenhand"):
        read_snapshot(tmp_path / "set")


WRITER = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_snapshot import made, reading
from evenhand.data.snapshot import write_snapshot
from evenhand.errors import StorageError
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
parts = made(reading())
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_snapshot(Path(sys.argv[1]), *parts)
except (StorageError, OSError) as error:
    print(type(error).__name__)
"""


def test_a_failed_write_leaves_nothing(tmp_path, request):
    """A real limit on file size stops the writer in the middle of the Parquet file."""
    here = str(request.path.parent)
    done = subprocess.run(
        [sys.executable, "-c", WRITER, str(tmp_path / "set"), here], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() in {"StorageError", "OSError"}
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_left_is_cleared(tmp_path):
    left = tmp_path / ".set.staging-999999999"
    left.mkdir()
    (left / "train.parquet").write_bytes(b"half")
    write_snapshot(tmp_path / "set", *made(reading()))
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_ledger_from_before_refused_rows_had_hashes_is_read(tmp_path):
    write_snapshot(tmp_path / "set", *made(reading()))
    ledger = tmp_path / "set" / "ledger.jsonl"
    told = [json.loads(line) for line in ledger.read_text().splitlines()]
    ledger.write_text("".join(json.dumps({k: v for k, v in row.items() if k != "sha256"}) + "\n" for row in told))
    assert snapshot_refusals(tmp_path / "set") == reading().refusals
