"""What was shipped is known by its manifest: 200 of 200 ways to tamper with a folder are found, and nothing else is."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from evenhand.errors import UserError
from evenhand.lifecycle.manifest import NAME, entries, manifest_hash, problems, read_manifest, write_manifest

Tamper = Callable[[Path, random.Random], None]


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """A folder of the kind that an export writes, with a file below another folder."""
    folder = tmp_path / "shipped"
    (folder / "deep").mkdir(parents=True)
    draw = random.Random(0)
    for name in ("adapter_model.safetensors", "tokenizer.json", "README.md", "deep/part.bin", ".hidden"):
        (folder / name).write_bytes(draw.randbytes(64))
    (folder / "empty.txt").write_bytes(b"")
    write_manifest(folder, {"name": "small", "ünïcode": [1, 2.5, None]})
    return folder


def pick(folder: Path, draw: random.Random) -> Path:
    return folder / draw.choice(entries(folder))


def added(folder: Path, draw: random.Random) -> None:
    name = draw.choice(["new.txt", ".new", "deep/new.bin", "other/new", "model.sig"])
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(draw.randbytes(draw.choice([0, 5])))


def added_folder(folder: Path, draw: random.Random) -> None:
    (folder / f"folder{draw.random()}").mkdir()


def removed(folder: Path, draw: random.Random) -> None:
    pick(folder, draw).unlink()


def flipped(folder: Path, draw: random.Random) -> None:
    file = pick(folder, draw)
    content = bytearray(file.read_bytes() or b"x")
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)


def grown(folder: Path, draw: random.Random) -> None:
    file = pick(folder, draw)
    file.write_bytes(file.read_bytes() + draw.choice([b" ", b"\n", b"\0"]))


def renamed(folder: Path, draw: random.Random) -> None:
    file = pick(folder, draw)
    file.rename(file.with_name(file.name + draw.choice(["x", " ", ".bak"])))


def swapped(folder: Path, draw: random.Random) -> None:
    one, two = draw.sample(entries(folder), 2)
    (folder / one).rename(folder / "swap")
    (folder / two).rename(folder / one)
    (folder / "swap").rename(folder / two)


def linked(folder: Path, draw: random.Random) -> None:
    file = pick(folder, draw)
    copy = folder.parent / f"copy-{draw.random()}"
    file.rename(copy)  # the same bytes, but now outside the folder
    file.symlink_to(copy)


def linked_folder(folder: Path, draw: random.Random) -> None:
    copy = folder.parent / f"deep-{draw.random()}"
    (folder / "deep").rename(copy)
    (folder / "deep").symlink_to(copy)


def piped(folder: Path, draw: random.Random) -> None:
    file = pick(folder, draw)
    if file.name != NAME:  # opening a pipe would wait for ever, which is what must not happen
        file.unlink()
        os.mkfifo(file)
    else:
        file.unlink()


WAYS: tuple[Tamper, ...] = (
    added,
    added_folder,
    removed,
    flipped,
    grown,
    renamed,
    swapped,
    linked,
    linked_folder,
    piped,
)


@pytest.mark.parametrize("way", WAYS, ids=[way.__name__ for way in WAYS])
@pytest.mark.parametrize("seed", range(20))
def test_every_way_to_tamper_is_found(shipped: Path, way: Tamper, seed: int) -> None:
    assert problems(shipped) == []
    way(shipped, random.Random(seed))
    try:
        found = problems(shipped)
    except UserError:  # no manifest, or one that is no JSON any more: the command ends with exit 2
        return
    assert found
    assert all(problem.path and problem.what for problem in found)


def test_a_manifest_is_deterministic_and_states_its_files(shipped: Path) -> None:
    first = manifest_hash(shipped)
    facts = {key: value for key, value in read_manifest(shipped).items() if key in ("name", "ünïcode")}
    assert write_manifest(shipped, facts) == first
    files = read_manifest(shipped)["files"]
    assert set(files) == {
        "adapter_model.safetensors",
        "tokenizer.json",
        "README.md",
        "deep/part.bin",
        ".hidden",
        "empty.txt",
    }
    assert files["empty.txt"] == {
        "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "bytes": 0,
    }


def test_a_fact_changed_by_hand_is_found(shipped: Path) -> None:
    value = json.loads((shipped / NAME).read_text())
    value["name"] = "other"
    (shipped / NAME).write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    assert [problem.path for problem in problems(shipped)] == [NAME]


def test_a_copy_of_the_folder_is_the_same_shipment(shipped: Path, tmp_path: Path) -> None:
    shipped.rename(tmp_path / "elsewhere")
    assert problems(tmp_path / "elsewhere") == []
    (tmp_path / "by-link").symlink_to(tmp_path / "elsewhere")
    assert problems(tmp_path / "by-link") == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "evenhand-manifest/1"}', "\xff"])
def test_what_is_no_manifest_is_said(tmp_path: Path, content: str) -> None:
    (tmp_path / NAME).write_text(content)
    with pytest.raises(UserError, match=r"manifest\.json is not"):
        problems(tmp_path)
    with pytest.raises(UserError, match="has no manifest"):
        problems(tmp_path.parent)
    with pytest.raises(UserError, match="is not a folder"):
        problems(tmp_path / "missing")
