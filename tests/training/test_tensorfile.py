"""Files that are written by hand are what safetensors itself reads, and their hashes are those of the files."""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evenhand.training import tensorfile
from evenhand.training.checkpoint import SavedTensors
from evenhand.training.tensorfile import start_hashing, write_tensors


def facts_of(folder: Path, *names: str) -> dict[str, dict[str, object]]:
    contents = {name: (folder / name).read_bytes() for name in names}
    return {name: {"bytes": len(own), "sha256": hashlib.sha256(own).hexdigest()} for name, own in contents.items()}


def test_safetensors_reads_every_bit_back(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    tensors = {
        "odd bytes": torch.randint(0, 256, (7,), generator=draw, dtype=torch.uint8),
        "wide": torch.randn(3, 5, generator=draw),
        "step": torch.tensor(4.0),
        "half": torch.randn(3, generator=draw).bfloat16(),
        "double": torch.randn(2, generator=draw).double(),
        "numbers": torch.arange(3),
        "turned": torch.randn(4, 6, generator=draw).T,
        "none": torch.zeros(0, 3),
        "larger than a piece": torch.randn(5 * 2**20, generator=draw),
        'a "name" é': torch.tensor([float("nan"), float("inf"), -0.0]),
    }
    facts = write_tensors(tmp_path, "x", tensors)
    assert facts == facts_of(tmp_path, "x.safetensors")
    back = load_file(tmp_path / "x.safetensors")
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (back[name].dtype, back[name].shape) == (tensor.dtype, tensor.shape)
        ours, theirs = (t.contiguous().reshape(-1).view(torch.uint8) for t in (tensor, back[name]))
        assert torch.equal(ours, theirs), name


def test_what_a_checkpoint_never_holds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        write_tensors(tmp_path, "x", {"c": torch.zeros(1, dtype=torch.complex64)})


def test_what_is_large_is_several_files_of_about_one_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorfile, "_LEAST_FILE", 1000)
    monkeypatch.setattr(tensorfile, "_PIECE", 300)
    monkeypatch.setattr(tensorfile, "_hashers", lambda process: [ThreadPoolExecutor(1) for _ in range(2)])
    tensors = {f"t{i}": torch.full((20 + 7 * i,), float(i)) for i in range(12)} | {
        "odd": torch.ones(3, dtype=torch.uint8)
    }
    names = ("state.part1.safetensors", "state.part2.safetensors")
    facts = write_tensors(tmp_path, "state", tensors)
    assert facts == facts_of(tmp_path, *names)
    sizes = [int(own["bytes"]) for own in facts.values()]
    assert max(sizes) < 1.3 * min(sizes)
    back = SavedTensors(tmp_path)
    assert set(back) == set(tensors)
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
    (tmp_path / "again").mkdir()
    assert write_tensors(tmp_path / "again", "state", dict(reversed(tensors.items()))) == facts


def test_shards_of_ranks_come_back_in_the_order_of_the_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorfile, "_LEAST_FILE", 600)
    monkeypatch.setattr(tensorfile, "_hashers", lambda process: [ThreadPoolExecutor(1) for _ in range(2)])
    whole = {"a": torch.arange(400.0), "b": torch.arange(300.0), "c": torch.arange(11.0)}
    for rank in range(2):
        shards = {name: tensor.chunk(2)[rank] for name, tensor in whole.items()}
        write_tensors(tmp_path, f"state-{rank + 1:05d}-of-00002", shards)
    assert len(list(tmp_path.iterdir())) == 4
    back = SavedTensors(tmp_path)
    assert all(torch.equal(back[name], tensor) for name, tensor in whole.items())


def test_the_same_threads_hash_all_files(tmp_path: Path) -> None:
    start_hashing()
    threads = threading.active_count()
    for number in range(3):
        write_tensors(tmp_path, f"{number}", {"x": torch.ones(10)})
    assert threading.active_count() == threads
