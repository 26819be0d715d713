"""Several processes: each launcher gives one result, and what one rank loses all of them learn."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_training import some_pairs

from evenhand.model.pack import forest_tokens
from evenhand.training.ranks import Ranks, _buckets, launched_ranks
from evenhand.training.share import Share, share_of

CHILD = str(Path(__file__).parent / "rank_child.py")


def port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def launch(launcher: list[str], folder: Path, *rest: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", *launcher, CHILD, str(folder), *rest]
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(command, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def torchrun(size: int) -> list[str]:
    return ["torch.distributed.run", "--nproc-per-node", str(size), "--master-port", port()]


def ends_well(process: subprocess.Popen[str]) -> None:
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said[-3000:]


def test_one_process_adds_up_to_itself() -> None:
    alone = Ranks()
    assert alone.first
    assert alone.gather({"a": 1}) == [{"a": 1}]
    assert alone.largest(2.5) == 2.5
    assert alone.from_first("x") == "x"
    assert torch.equal(alone.add(torch.tensor([1.5])), torch.tensor([1.5], dtype=torch.float64))
    assert launched_ranks() == Ranks(0, 1)


def test_buckets_hold_every_tensor_once_in_order() -> None:
    tensors = [torch.zeros(size) for size in (3, 2**24, 5, 2**25, 7)]
    buckets = list(_buckets(tensors))
    assert len(buckets) > 1
    assert [len(t) for bucket in buckets for t in bucket] == [len(t) for t in tensors]
    assert all(len(bucket) == 1 or sum(t.nbytes for t in bucket) <= 64 * 2**20 for bucket in buckets)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_the_shares_of_all_ranks_are_the_step_with_groups_whole_and_tokens_balanced(size: int) -> None:
    pairs = some_pairs(40, largest_group=3)
    shares = [share_of(pairs, 60, Ranks(rank, size), in_step=True) for rank in range(size)]
    rows = sorted(pair.row for share in shares for batch in share.micro for pair in batch)
    assert rows == [pair.row for pair in pairs]
    assert {share.pairs for share in shares} == {40}
    assert len({len(share.micro) + len(share.idle) for share in shares}) == 1  # as many forwards on each rank
    groups = [{pair.group for batch in share.micro for pair in batch} for share in shares]
    assert all(not groups[i] & groups[j] for i in range(size) for j in range(i))
    tokens = [sum(forest_tokens(batch) for batch in share.micro) for share in shares]  # those that are computed
    assert max(tokens) < 1.25 * min(tokens)


def test_a_step_alone_counts_its_own_pairs() -> None:
    pairs = some_pairs(5)
    assert Share.alone([pairs[:2], pairs[2:]]).pairs == 5


def test_torchrun_with_shards_resumes_on_another_number_of_ranks_when_allowed(tmp_path: Path) -> None:
    ends_well(launch(torchrun(2), tmp_path, "fsdp", "0.0", "steps=4"))
    saved = tmp_path / "checkpoints" / "step-000004"
    assert {file.name for file in saved.iterdir()} == {
        *("manifest.json", "state.json", "state-00001-of-00002.safetensors", "state-00002-of-00002.safetensors")
    }
    manifest = json.loads((saved / "manifest.json").read_text())
    assert manifest["run"]["world_size"] == "2"
    assert manifest["parent_step"] == 2
    refused = launch(torchrun(1), tmp_path, "ddp", "0.0", "steps=4")
    _, said = refused.communicate(timeout=240)
    assert refused.returncode != 0
    assert "world_size (2, now 1); choose another --out, allow it with --allow-change world_size" in said
    before = load_file(tmp_path / "weights.safetensors")
    ends_well(launch(torchrun(1), tmp_path, "ddp", "0.0", "steps=4", "allow=world_size"))
    after = load_file(tmp_path / "weights.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_accelerate_launch_trains_on_several_processes(tmp_path: Path) -> None:
    launcher = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", port()]
    ends_well(launch(launcher, tmp_path, "auto", "full", "steps=2", ACCELERATE_USE_FSDP="true"))
    manifest = json.loads((tmp_path / "checkpoints" / "step-000002" / "manifest.json").read_text())
    assert manifest["run"]["world_size"] == "2"
    assert any(name.startswith("state-00002") for name in manifest["files"])  # sharded, as accelerate was told


def test_a_killed_rank_takes_all_down_in_ten_seconds_under_torchrun(tmp_path: Path) -> None:
    process = launch(torchrun(2), tmp_path, "ddp", "full", "steps=100000", "checkpoint_every=50")
    deadline = time.monotonic() + 200
    while not any((tmp_path / "checkpoints").glob("step-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(int((tmp_path / "pid.1").read_text()), signal.SIGKILL)
    began = time.monotonic()
    process.communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert process.returncode != 0
    for rank in range(2):
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / f"pid.{rank}").read_text()), 0)
