"""`deterministic`: what it switches, and that it leaves torch as it was."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from evenhand.training.determinism import determinism, fix_workspace
from evenhand.training.identity import settings_by_name
from evenhand.training.sections import TrainingSection

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SECTION = TrainingSection(batch_pairs=2, steps=1, learning_rate=1e-4, seed=0)


@pytest.mark.parametrize(
    ("asked", "device", "wanted"),
    [(None, CPU, True), (None, CUDA, False), (False, CPU, False), (True, CUDA, True), (True, CPU, True)],
)
def test_it_is_on_where_asked_and_by_default_on_a_cpu(asked: bool | None, device: torch.device, wanted: bool) -> None:
    assert not torch.are_deterministic_algorithms_enabled()
    with determinism(asked, device) as chosen:
        assert chosen is wanted
        assert torch.are_deterministic_algorithms_enabled() is wanted
        assert not torch.is_deterministic_algorithms_warn_only_enabled()  # flash attention heeds only the strict form
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_a_run_that_dies_leaves_torch_as_it_was() -> None:
    with pytest.raises(KeyError), determinism(True, CPU):
        raise KeyError
    assert not torch.are_deterministic_algorithms_enabled()


def test_it_may_change_between_two_starts_of_a_run() -> None:
    asked = SECTION.model_copy(update={"deterministic": True})
    before, now = (settings_by_name("training", section.model_dump(mode="json")) for section in (SECTION, asked))
    assert before == now


@pytest.mark.parametrize(
    ("asked", "device", "set_before", "wanted"),
    [
        (True, CUDA, None, ":4096:8"),
        (True, CUDA, ":16:8", ":16:8"),
        (None, CUDA, None, None),
        (False, CUDA, None, None),
        (True, CPU, None, None),
    ],
)
def test_cublas_gets_its_workspace_where_it_is_needed(
    asked: bool | None,
    device: torch.device,
    set_before: str | None,
    wanted: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", set_before or "")
    if set_before is None:
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    fix_workspace(asked, device)
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == wanted


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch asks for the workspace at its first product on CUDA")
def test_a_run_on_cuda_from_its_policy_on_gives_the_same_bits_twice() -> None:
    # In processes of their own: the first product of this one may be behind us.
    code = """
import torch
from architectures import tiny
from small_training import OBJECTIVE, settings, some_pairs
from evenhand.model.pack import pack
from evenhand.training.determinism import determinism
from evenhand.training.train import make_policy
policy = make_policy(tiny("llama").bfloat16().cuda(), None, settings(deterministic=True))
with determinism(True, policy.device):
    OBJECTIVE(policy(pack(some_pairs(8)))).sum().backward()
print([w.grad.double().sum().item().hex() for w in policy.parameters() if w.grad is not None])
"""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent / "model"), *sys.path])
    environment = {**{k: v for k, v in os.environ.items() if k != "CUBLAS_WORKSPACE_CONFIG"}, "PYTHONPATH": path}
    runs = [
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert runs[0].stdout == runs[1].stdout != ""
