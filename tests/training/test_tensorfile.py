"""A file that is written by hand is what safetensors itself reads, and its hash is that of the file."""

import hashlib
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evenhand.training.tensorfile import start_hashing, write_tensors


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
    path = tmp_path / "x.safetensors"
    facts = write_tensors(path, tensors)
    content = path.read_bytes()
    assert facts == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    back = load_file(path)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (back[name].dtype, back[name].shape) == (tensor.dtype, tensor.shape)
        ours, theirs = (t.contiguous().reshape(-1).view(torch.uint8) for t in (tensor, back[name]))
        assert torch.equal(ours, theirs), name


def test_what_a_checkpoint_never_holds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        write_tensors(tmp_path / "x", {"c": torch.zeros(1, dtype=torch.complex64)})


def test_one_thread_hashes_for_all_files(tmp_path: Path) -> None:
    start_hashing()
    threads = threading.active_count()
    for number in range(3):
        write_tensors(tmp_path / f"{number}", {"x": torch.ones(10)})
    assert threading.active_count() == threads
