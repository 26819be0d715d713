"""What is converted is read back as the same pairs, by evenhand and by the libraries the forms are for."""

import json

import pytest
from datasets import load_dataset
from trl.data_utils import is_conversational, maybe_extract_prompt

from evenhand.data.convert import FORMS, convert
from evenhand.data.harbor import write_harbor
from evenhand.data.preparation import Wanted, prepare
from evenhand.data.read import read_pairs
from evenhand.data.snapshot import check_snapshot, read_snapshot
from evenhand.errors import DataError

TURNS = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Where is it? 漢 <|im_end|>"},
    {"role": "assistant", "content": "Which order?"},
    {"role": "user", "content": "Number 5.\nPlease."},
]
ROWS = [
    {"prompt": TURNS, "chosen": "On its way.", "rejected": "No idea."},
    {"prompt": "Hello", "chosen": "Hi!", "rejected": "What?"},
]


def told(pairs):
    return [(pair.prompt, pair.chosen, pair.rejected) for pair in pairs]


@pytest.mark.parametrize("form", FORMS)
def test_round_trip(tmp_path, form):
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    _, pairs = read_pairs(tmp_path / "rows.jsonl")
    found = convert(str(tmp_path / "rows.jsonl"), form, tmp_path / "out")
    assert found["rows"] == {"pairs": 2}
    _, again = read_pairs(tmp_path / "out" / "pairs.jsonl")
    assert told(again) == told(pairs)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    folder = tmp_path_factory.mktemp("harbor")
    write_harbor(folder, 3, judgments=300)
    wanted = Wanted(licence="CC0-1.0", origin="invented")
    prepare(str(folder / "judgments.jsonl"), folder / "set", wanted, lambda _: None)
    return folder / "set"


def test_a_snapshot_keeps_its_sides_and_its_hash(tmp_path, snapshot):
    found = convert(str(snapshot), "trl", tmp_path / "out")
    source = read_snapshot(snapshot)
    assert found["hash"] == source.hash
    assert json.loads((tmp_path / "out" / "source.json").read_text()) == found
    files = {side: str(tmp_path / "out" / f"{side}.jsonl") for side in ("train", "validation")}
    loaded = load_dataset("json", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert loaded["train"].num_rows == len(source.train)
    assert is_conversational(loaded["train"][0])
    assert maybe_extract_prompt(loaded["train"][0]) == loaded["train"][0]


def test_llamafactory_has_its_entry(tmp_path, snapshot):
    convert(str(snapshot), "llamafactory", tmp_path / "out")
    info = json.loads((tmp_path / "out" / "dataset_info.json").read_text())
    assert info["train"]["ranking"] is True
    row = json.loads((tmp_path / "out" / "train.jsonl").read_text().splitlines()[0])
    assert set(info["train"]["columns"].values()) == set(row)


def test_unknown_form_and_full_folder(tmp_path, snapshot):
    with pytest.raises(DataError, match="known are trl, openai, llamafactory"):
        convert(str(snapshot), "axolotl", tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").touch()
    with pytest.raises(DataError, match="holds something"):
        convert(str(snapshot), "trl", tmp_path / "out")


def test_a_sound_snapshot_passes(snapshot):
    name, problems = check_snapshot(snapshot)
    assert (name, problems) == (read_snapshot(snapshot).hash, ())
    dataset = json.loads((snapshot / "dataset.json").read_text())
    assert dataset["parents"]["licence"] == "CC0-1.0"
    assert dataset["categories"]["derivation"].startswith("the first of evenhand's patterns")


@pytest.mark.parametrize("name", ["train.parquet", "validation.parquet", "ledger.jsonl", "dataset.json", "card.md"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_every_harm_is_seen(tmp_path, snapshot, name, harm):
    folder = tmp_path / "set"
    folder.mkdir()
    for file in snapshot.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    content = (folder / name).read_bytes()
    if harm == "remove":
        (folder / name).unlink()
    else:
        middle = len(content) // 2
        other = bytes([content[middle] ^ 1])
        (folder / name).write_bytes(content[:middle] + (other + content[middle + 1 :] if harm == "flip" else b""))
    assert check_snapshot(folder)[1]


def test_an_added_file_is_seen(tmp_path, snapshot):
    folder = tmp_path / "set"
    folder.mkdir()
    for file in snapshot.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "more.parquet").touch()
    assert check_snapshot(folder)[1] == ("more.parquet was added",)
