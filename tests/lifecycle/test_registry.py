"""A registry keeps every decision, refuses what is not proved, and is right whatever happens to those who write it."""

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

from evenhand.errors import RegistryError, UserError
from evenhand.lifecycle.ledger import RemoteShelf, append, read_entries
from evenhand.lifecycle.manifest import manifest_hash, write_manifest
from evenhand.lifecycle.registry import (
    Decision,
    Registry,
    add,
    model_problems,
    promote,
    read_gate,
    read_log,
    rollback,
    state_of,
)

ME = Decision("ann", "2026-01-02T03:04:05+00:00", "because")
ROOT = Path(__file__).parent.parent.parent


def shipped(folder: Path, name: str) -> Path:
    """A folder as far as a registry looks at it."""
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(random.Random(name).randbytes(100))
    write_manifest(folder, {"name": name})
    return folder


@pytest.fixture(params=["folder", "url"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    """An empty registry, in a folder or behind a URL."""
    if request.param == "folder":
        yield Registry(str(tmp_path / "registry"))
        return
    fsspec.filesystem("memory").store.clear()
    yield Registry("memory://registry")
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def filled(registry: Registry, tmp_path: Path) -> Registry:
    """Candidates a, b and c; nothing in production."""
    for name in "abc":
        add(registry, shipped(tmp_path / name, name), name, ME)
    return registry


def passed(registry: Registry, name: str) -> dict[str, Any]:
    """A passed gate of `name` against what is in production."""
    state = state_of(read_log(registry))
    against = {"manifest_sha256": state.candidates.get(state.incumbent or "")}
    candidate = {"manifest_sha256": state.candidates[name]}
    checks = [{"name": "arithmetic", "passed": True, "failing": ["long"]}]
    return {"passed": True, "checks": checks, "candidate": candidate, "incumbent": against}


def standing(registry: Registry) -> tuple[str | None, str | None]:
    state = state_of(read_log(registry))
    return state.incumbent, state.fallback


def test_candidates_are_promoted_and_rolled_back(filled: Registry) -> None:
    assert standing(filled) == (None, None)
    for name, fallback in (("a", None), ("b", "a"), ("c", "b")):
        promote(filled, name, passed(filled, name), ME)
        assert standing(filled) == (name, fallback)
    rollback(filled, replace(ME, why="complaints"))
    assert standing(filled) == ("b", "a")
    rollback(filled, ME)
    assert standing(filled) == ("a", None)
    with pytest.raises(UserError, match="has no fallback: a is the only one"):
        rollback(filled, ME)
    promote(filled, "c", passed(filled, "c"), ME)  # a model that was rolled back may come again
    assert standing(filled) == ("c", "a")


def test_the_log_keeps_who_when_why_and_the_gate(filled: Registry) -> None:
    promote(filled, "a", passed(filled, "a"), ME)
    content = read_log(filled)[-1].content
    assert (content["who"], content["when"], content["why"]) == ("ann", "2026-01-02T03:04:05+00:00", "because")
    assert content["manifest_sha256"] == state_of(read_log(filled)).candidates["a"]
    assert content["gate"]["checks"] == [{"name": "arithmetic", "passed": True}]
    assert content["overruled"] is None


def refused(registry: Registry, name: str, gate: dict[str, Any] | None, said: str, overrule: str | None = None) -> None:
    before = read_log(registry)
    with pytest.raises(RegistryError, match=said):
        promote(registry, name, gate, ME, overrule)
    assert read_log(registry) == before


def test_promotion_needs_a_passed_gate_of_this_candidate_against_this_incumbent(filled: Registry) -> None:
    promote(filled, "a", passed(filled, "a"), ME)
    good = passed(filled, "b")
    refused(filled, "b", None, "no gate was given")
    failed = good | {"passed": False, "checks": [{"name": "ends", "passed": False}]}
    refused(filled, "b", failed, r"did not pass \(ends\)")
    refused(filled, "c", good, "passed by another candidate")
    refused(filled, "a", good, "in production already")
    refused(filled, "b", good | {"incumbent": {"manifest_sha256": "0" * 64}}, "against another incumbent")
    refused(filled, "b", good | {"passed": 1}, "did not pass")
    refused(filled, "b", None, "no gate was given", overrule="  ")
    promote(filled, "b", good, ME)
    refused(filled, "c", passed(filled, "c") | {"incumbent": good["incumbent"]}, "against another incumbent")


def test_an_overruled_gate_leaves_its_reason(filled: Registry) -> None:
    promote(filled, "a", None, ME, overrule="the shop is down")
    overruled = read_log(filled)[-1].content["overruled"]
    assert overruled == {"reason": "the shop is down", "because": "no gate was given"}
    promote(filled, "b", passed(filled, "b"), ME, overrule="not needed")
    assert read_log(filled)[-1].content["overruled"] is None


def test_only_what_was_shipped_is_added(registry: Registry, tmp_path: Path) -> None:
    folder = shipped(tmp_path / "one", "one")
    (folder / "extra").write_text("x")
    with pytest.raises(RegistryError, match="is not what was shipped: extra was added"):
        add(registry, folder, "one", ME)
    (folder / "extra").unlink()
    entry = add(registry, folder, None, ME)
    assert entry.content["name"] == f"one-{manifest_hash(folder)[:8]}"
    with pytest.raises(UserError, match=r"is in .* already"):
        add(registry, folder, entry.content["name"], ME)
    for bad in ("../x", "A", "a/b", "", ".x", "a" * 65):
        if bad:
            with pytest.raises(UserError, match="is no name for a candidate"):
                add(registry, folder, bad, ME)
    with pytest.raises(UserError, match=r"nope is not in .*; it holds one-"):
        promote(registry, "nope", None, ME, "x")
    assert len(read_log(registry)) == 1


def test_a_models_files_are_kept_and_watched(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "registry"))
    folder = shipped(tmp_path / "one", "one")
    add(registry, folder, "one", ME)
    state = state_of(read_log(registry))
    kept = Path(registry.model_place(state.candidates["one"]))
    assert model_problems(registry, state) == []
    assert (kept / "manifest.json").read_bytes() == (folder / "manifest.json").read_bytes()
    (kept / "adapter_model.safetensors").write_bytes(b"other")
    assert "adapter_model.safetensors was changed" in model_problems(registry, state)[0]
    write_manifest(kept, {"name": "one"})
    assert "its manifest is not the one that was added" in model_problems(registry, state)[0]


def test_what_was_done_to_a_model_is_found_in_a_folder_and_behind_a_url(filled: Registry) -> None:
    state = state_of(read_log(filled))
    assert model_problems(filled, state) == []
    files, _ = fsspec.core.url_to_fs(filled.place)
    a, b, c = (filled.model_place(state.candidates[name]) for name in "abc")
    files.pipe_file(f"{a}/adapter_model.safetensors", b"other")
    files.makedirs(f"{a}/sub")
    files.pipe_file(f"{a}/sub/extra", b"x")
    files.pipe_file(f"{b}/manifest.json", b"{}")
    files.rm(c, recursive=True)
    assert sorted(model_problems(filled, state)) == [
        "a: adapter_model.safetensors was changed: its sha256 is another one",
        "a: sub/extra was added",
        "b: its manifest is not the one that was added",
        f"c: {c} is missing",
    ]
    files.rm(f"{a}/adapter_model.safetensors")
    assert "a: adapter_model.safetensors was removed" in model_problems(filled, state)
    files.rm(f"{b}/manifest.json")
    assert f"b: {b} is missing" in model_problems(filled, state)


def log_files(registry: Registry) -> list[Path]:
    return sorted((Path(registry.place) / "log").glob("*.json"))


@pytest.mark.parametrize("seed", range(12))
def test_a_log_that_was_touched_is_refused(tmp_path: Path, seed: int) -> None:
    registry, draw = Registry(str(tmp_path / "registry")), random.Random(seed)
    for name in "abc":
        add(registry, shipped(tmp_path / name, name), name, ME)
    file = draw.choice(log_files(registry))
    if seed % 3 == 0:
        log_files(registry)[draw.randrange(2)].unlink()  # not the last: that the log once was longer, its head tells
    elif seed % 3 == 1:
        content = bytearray(file.read_bytes())
        content[draw.randrange(len(content))] ^= 1
        file.write_bytes(content)
    else:
        one, two = draw.sample(log_files(registry), 2)
        kept = one.read_bytes()
        one.write_bytes(two.read_bytes())
        two.write_bytes(kept)
    with pytest.raises(RegistryError, match=r"entry \d of the log"):
        read_log(registry)


def test_an_entry_rewritten_with_its_hash_breaks_the_chain(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "registry"))
    other = Registry(str(tmp_path / "other"))
    for name in "ab":
        add(registry, shipped(tmp_path / name, name), name, ME)
    add(other, tmp_path / "a", "a", replace(ME, who="mallory"))
    log_files(registry)[0].write_bytes(log_files(other)[0].read_bytes())
    with pytest.raises(RegistryError, match="entry 2 of the log does not follow entry 1, which was replaced"):
        read_log(registry)


def test_what_a_kill_left_is_no_entry(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "registry"))
    add(registry, shipped(tmp_path / "a", "a"), "a", ME)
    (tmp_path / "registry" / "log" / ".000002.json.staging-4711").write_text('{"half')
    assert len(read_log(registry)) == 1
    promote(registry, "a", None, ME, "first")
    assert standing(registry) == ("a", None)


def test_the_same_number_is_given_once(registry: Registry) -> None:
    assert append(registry.shelf, [], {"action": "x"}) is not None
    assert append(registry.shelf, [], {"action": "y"}) is None
    assert [entry.content["action"] for entry in read_entries(registry.shelf)] == ["x"]


def test_a_store_that_cannot_decide_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def pipe_file(*_: Any, mode: str = "overwrite", **__: Any) -> None:
        if mode != "overwrite":
            raise NotImplementedError

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "pipe_file", pipe_file)
    with pytest.raises(UserError, match="cannot create a file only where there is none"):
        RemoteShelf("memory://other/log").create("000001.json", b"{}")


def test_what_is_no_gate_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not readable as a gate's result"):
        read_gate(tmp_path / "missing.json")
    for text in ("[]", "{}", '{"passed": true}', "x"):
        (tmp_path / "gate.json").write_text(text)
        with pytest.raises(UserError, match=r"gate\.json is not"):
            read_gate(tmp_path / "gate.json")


def test_it_needs_no_torch() -> None:
    code = (
        "import sys, evenhand.lifecycle.registry, evenhand.lifecycle.manifest\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_kills_and_races_in_their_short_form() -> None:
    """The long form is `python reliability/registry_kill.py`: 100 kills and 20 races."""
    command = [sys.executable, ROOT / "reliability" / "registry_kill.py", "--kills", "8", "--races", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert (found["kill"]["broken"], found["kill"]["lost"], found["race"]["not_exactly_one_winner"]) == (0, 0, 0)
