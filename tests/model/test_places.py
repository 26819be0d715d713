"""What is shipped names no folder of the machine, and the machine finds what it knows by hash again."""

from pathlib import Path

import pytest

from evenhand.files import sha256
from evenhand.model.places import place_of, portable, public_name, remember_place

SNAPSHOT = Path("/home/ann/.cache/huggingface/hub/models--team--chat/snapshots/0123abcd")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EVENHAND_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_place_is_remembered_by_hash(own_cache: Path) -> None:
    key = sha256(b"weights")
    assert place_of(key) is None
    remember_place(key, {"folder": "/models/one"})
    remember_place(key, {"folder": "/models/two"})
    assert place_of(key) == {"folder": "/models/two"}
    assert place_of(sha256(b"others")) is None
    (own_cache / "places" / f"{key}.json").write_text("[")
    assert place_of(key) is None


@pytest.mark.parametrize("key", [None, "", "../../etc/passwd", 7, "0" * 63, "G" * 64])
def test_only_a_hash_is_looked_up(key: object) -> None:
    assert place_of(key) is None


def test_a_cache_that_cannot_be_written_stops_nothing(own_cache: Path) -> None:
    own_cache.write_text("a file where the folder would be")
    remember_place(sha256(b"weights"), {"folder": "/models/one"})
    assert place_of(sha256(b"weights")) is None


def test_public_names(tmp_path: Path) -> None:
    assert public_name("builtin:smollm2-135m", tmp_path) == "builtin:smollm2-135m"
    assert public_name("team/chat", SNAPSHOT) == public_name(str(SNAPSHOT), SNAPSHOT) == "team/chat"
    plain, run = tmp_path / "ann" / "model", tmp_path / "runs" / "sft" / "model"
    for folder in (plain, run):
        folder.mkdir(parents=True)
    (run.parent / "recipe.json").write_text("{}")
    assert public_name(str(plain), plain) == "model"
    assert public_name(str(run), run) == public_name(str(run.parent), run.parent) == "sft"


def test_a_recipe_goes_out_without_folders(tmp_path: Path) -> None:
    known = tmp_path / "words.txt"
    known.write_text("x")
    recipe = {
        "model": {"source": "/home/ann/models/llama"},
        "data": {
            "source": None,
            "train": "~/pairs.jsonl",
            "validation": "../ann/held_out.jsonl",
            "template_arguments": {"mode": "/no_think"},
        },
        "evaluation": {"rewards": [{"source": "/home/ann/gone.py:short", "arguments": {"list": str(known), "n": 3}}]},
        "objective": {"reference_model": "team/chat"},
        "name": "harbor",
    }
    assert portable(recipe) == {
        "model": {"source": "llama"},
        "data": {
            "source": None,
            "train": "pairs.jsonl",
            "validation": "held_out.jsonl",
            "template_arguments": {"mode": "/no_think"},
        },
        "evaluation": {"rewards": [{"source": "gone.py:short", "arguments": {"list": "words.txt", "n": 3}}]},
        "objective": {"reference_model": "team/chat"},
        "name": "harbor",
    }
    assert portable({"data": {"source": "data/pairs.jsonl", "validation": 0.1}}) == {
        "data": {"source": "data/pairs.jsonl", "validation": 0.1}
    }
