"""A checkpoint is trusted only if every byte is what was written; the one before it stays good whatever happens."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from evenhand.errors import NoRoomError, StorageError
from evenhand.training.checkpoint import (
    drop_old,
    newest_checkpoint,
    random_state,
    require_room,
    restore_random_state,
    save_checkpoint,
    verify_checkpoint,
)

STATE = {"pairs": 40, "best_loss": 0.1 + 0.2, "identity": {"data": "é"}}


def tensors(step: int, size: int = 4) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(step)
    return {"master.w": torch.randn(size, 2, generator=draw), "step.w": torch.tensor(float(step))}


def saved(root: Path, *steps: int) -> list[Path]:
    return [save_checkpoint(root, step, STATE, tensors(step)) for step in steps]


def found_step(root: Path) -> int | None:
    checkpoint = newest_checkpoint(root)
    return None if checkpoint is None else checkpoint.step


def test_what_was_saved_comes_back_bit_for_bit(tmp_path: Path) -> None:
    saved(tmp_path, 2, 4)
    checkpoint = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.folder.name) == (4, "step-000004")
    assert checkpoint.state == {"step": 4, **STATE}
    got = checkpoint.tensors()
    assert got.keys() == tensors(4).keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in tensors(4).items())
    assert {file.name for file in checkpoint.folder.iterdir()} == {"manifest.json", "state.json", "state.safetensors"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000002", "step-000004"]


def flip(file: Path, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["manifest.json", "state.json", "state.safetensors"])
def test_a_flipped_bit_is_seen_wherever_it_is(tmp_path: Path, name: str) -> None:
    _, newest = saved(tmp_path, 1, 2)
    file = newest / name
    content = file.read_bytes()
    for bit in range(0, 8 * len(content), 3):  # every byte, and every place in a byte
        flip(file, bit)
        assert verify_checkpoint(newest) is None, f"bit {bit} of {name}"
        file.write_bytes(content)
    assert found_step(tmp_path) == 2


def truncate(folder: Path) -> None:
    file = folder / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def swap_files(folder: Path) -> None:
    other = folder.with_name("step-000001") / "state.safetensors"
    shutil.copy(other, folder / "state.safetensors")


def swap_folders(folder: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(folder.with_name("step-000001"), folder)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": truncate,
    "empty": lambda folder: (folder / "state.json").write_bytes(b""),
    "tensors deleted": lambda folder: (folder / "state.safetensors").unlink(),
    "manifest deleted": lambda folder: (folder / "manifest.json").unlink(),
    "extra file": lambda folder: (folder / "more.bin").write_bytes(b"x"),
    "extra folder": lambda folder: (folder / "more").mkdir(),
    "file of another step": swap_files,
    "folder of another step under this name": swap_folders,
    "renamed to a later step": lambda folder: folder.rename(folder.with_name("step-000009")),
    "a manifest of another shape": lambda folder: (folder / "manifest.json").write_text('{"step": 2, "files": []}'),
    "only a file": lambda folder: (shutil.rmtree(folder), folder.write_text("x")),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_seen_and_the_one_before_is_used(tmp_path: Path, name: str) -> None:
    _, newest = saved(tmp_path, 1, 2)
    DAMAGE[name](newest)
    assert found_step(tmp_path) == 1


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "absent") is None
    (saved(tmp_path, 1)[0] / "state.json").unlink()
    assert newest_checkpoint(tmp_path) is None


def test_a_step_saved_again_replaces_the_first(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    save_checkpoint(tmp_path, 1, STATE | {"pairs": 7}, tensors(5))
    checkpoint = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.state["pairs"] == 7
    assert torch.equal(checkpoint.tensors()["master.w"], tensors(5)["master.w"])


def test_what_a_killed_save_left_behind_is_swept_away(tmp_path: Path) -> None:
    left = tmp_path / ".staging-1234567"
    left.mkdir()
    (left / "state.safetensors").write_bytes(b"half")
    assert newest_checkpoint(tmp_path) is None
    saved(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2, 3, 4, 5)
    drop_old(tmp_path, keep=2, best_step=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000002", "step-000004", "step-000005"]
    drop_old(tmp_path, keep=1, best_step=None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000005"]


def test_too_little_room_is_said_with_figures_before_the_run(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    require_room(tmp_path / "not" / "there" / "yet", free // 48)  # 24 bytes a weight: three fp32 numbers, twice
    with pytest.raises(NoRoomError, match=rf"{tmp_path} has \d+ bytes free and two checkpoints need {24 * free}; free"):
        require_room(tmp_path / "run", free)
    assert list(tmp_path.iterdir()) == []


def test_random_numbers_go_on_where_they_were() -> None:
    cpu = torch.device("cpu")
    state = random_state(cpu)
    wanted = torch.randn(5)
    torch.randn(3)
    restore_random_state({name: tensor.clone() for name, tensor in state.items()}, cpu)
    assert torch.equal(torch.randn(5), wanted)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("kib", [0, 8, 64, 200, 380, 398, 402])
def test_a_full_disk_leaves_the_last_checkpoint_as_it_was(small_disk: Path, kib: int) -> None:
    """A checkpoint of 400 KiB, a second one into `kib` KiB of room."""
    save_checkpoint(small_disk, 1, STATE, tensors(1, 50 * 1024))
    kept = {file.name: file.read_bytes() for file in (small_disk / "step-000001").iterdir()}
    filler = small_disk / "filler"
    filler.write_bytes(b"\0" * (shutil.disk_usage(small_disk).free - kib * 1024))
    size = sum(tensor.nbytes for tensor in tensors(2, 50 * 1024).values())
    with pytest.raises(
        StorageError, match=rf"step-000002: No space left.* {size} bytes with \d+ bytes free; free some"
    ):
        save_checkpoint(small_disk, 2, STATE, tensors(2, 50 * 1024))
    assert {file.name: file.read_bytes() for file in (small_disk / "step-000001").iterdir()} == kept
    assert sorted(path.name for path in small_disk.iterdir()) == ["filler", "step-000001"]
    assert found_step(small_disk) == 1
    filler.unlink()
    save_checkpoint(small_disk, 2, STATE, tensors(2, 50 * 1024))
    assert found_step(small_disk) == 2
    assert json.loads((small_disk / "step-000002" / "manifest.json").read_text())["step"] == 2
