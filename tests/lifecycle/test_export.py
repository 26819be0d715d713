"""What is exported is loaded again and compared; what differs is not published and leaves the folder as it was."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from small_model import rows, write_rows
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from evenhand.data.read import read_pairs
from evenhand.errors import ExportError, StorageError
from evenhand.lifecycle.export import TOLERANCE, export_model
from evenhand.model.adapter import Adapter, attach
from evenhand.model.encode import EncodedPair, encode_pairs
from evenhand.model.forward import Policy
from evenhand.model.modes import Form, encoder_for, prompt_encoder

FORM = Form(max_tokens=256)


@pytest.fixture
def tokenizer(small_model: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(small_model)


@pytest.fixture
def probes(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[EncodedPair, ...]:
    pairs = read_pairs(write_rows(tmp_path / "data" / "probes.jsonl", rows(10)))[1]
    return encode_pairs(pairs, encoder_for(tokenizer, FORM), FORM.limits, "probes").pairs


def policy_of(small_model: Path, adapter: bool, dtype: torch.dtype = torch.float32) -> Policy:
    model = AutoModelForCausalLM.from_pretrained(small_model, dtype=dtype)
    if not adapter:
        return Policy(model)
    wrapped = attach(model, Adapter(4, 8.0))
    torch.manual_seed(1)
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    return Policy(wrapped)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(3, 40)[None]).logits
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("adapter", [True, False], ids=["lora", "full"])
def test_an_export_gives_the_policys_own_numbers(
    tmp_path: Path,
    small_model: Path,
    tokenizer: PreTrainedTokenizerBase,
    probes: tuple[EncodedPair, ...],
    adapter: bool,
    dtype: torch.dtype,
) -> None:
    policy = policy_of(small_model, adapter, dtype)
    stops = prompt_encoder(tokenizer, FORM)[1] | {0}
    worst = export_model(policy, tokenizer, stops, probes, tmp_path / "out" / "model")
    assert 0 <= worst <= TOLERANCE[dtype]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model"]
    base = AutoModelForCausalLM.from_pretrained(small_model if adapter else tmp_path / "out" / "model", dtype=dtype)
    again = PeftModel.from_pretrained(base, tmp_path / "out" / "model") if adapter else base
    policy.release()
    assert torch.allclose(
        logits(again.eval()), logits(policy.model.eval()), atol=1e-4 if dtype == torch.float32 else 0.1
    )
    assert AutoTokenizer.from_pretrained(tmp_path / "out" / "model").get_vocab() == tokenizer.get_vocab()
    generation = again.generation_config.from_pretrained(tmp_path / "out" / "model")
    assert generation.eos_token_id == [0, 2]


def broken(small_model: Path, adapter: bool) -> Policy:
    """A policy that does something which its files do not: it adds to a layer's output."""
    policy = policy_of(small_model, adapter)
    layer = policy.model.get_submodule("base_model.model.model.norm" if adapter else "model.norm")
    layer.register_forward_hook(lambda _module, _inputs, output: output * 1.01)
    return policy


@pytest.mark.parametrize("adapter", [True, False], ids=["lora", "full"])
def test_an_export_that_differs_is_not_published(
    tmp_path: Path,
    small_model: Path,
    tokenizer: PreTrainedTokenizerBase,
    probes: tuple[EncodedPair, ...],
    adapter: bool,
) -> None:
    target = tmp_path / "out" / "model"
    target.mkdir(parents=True)
    (target / "old.txt").write_text("what was here")
    with pytest.raises(ExportError, match=r"differs by \d\.\d+e-\d+ nats per token on 8 probe pairs, more than 1e-04"):
        export_model(broken(small_model, adapter), tokenizer, frozenset({2}), probes, target)
    assert [path.name for path in target.parent.iterdir()] == ["model"]
    assert (target / "old.txt").read_text() == "what was here"
    assert [path.name for path in target.iterdir()] == ["old.txt"]
    export_model(policy_of(small_model, adapter), tokenizer, frozenset({2}), probes, target)
    assert not (target / "old.txt").exists()


def test_a_difference_that_is_not_a_number_is_not_published(
    tmp_path: Path, small_model: Path, tokenizer: PreTrainedTokenizerBase, probes: tuple[EncodedPair, ...]
) -> None:
    policy = policy_of(small_model, adapter=False)
    policy.model.get_submodule("model.norm").register_forward_hook(lambda _m, _i, output: output * torch.nan)
    with pytest.raises(ExportError, match="differs by nan"):
        export_model(policy, tokenizer, frozenset({2}), probes, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_what_a_killed_export_left_is_no_obstacle(
    tmp_path: Path, small_model: Path, tokenizer: PreTrainedTokenizerBase, probes: tuple[EncodedPair, ...]
) -> None:
    left = tmp_path / f".model.staging-{os.getpid()}"  # process numbers come again, in a container every time
    left.mkdir()
    (left / "half.safetensors").write_bytes(b"half")
    export_model(policy_of(small_model, adapter=True), tokenizer, frozenset({2}), probes, tmp_path / "model")
    assert not left.exists()
    assert not (tmp_path / "model" / "half.safetensors").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 100 KiB, in which the model has no room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(disk)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_said_and_leaves_nothing(
    small_disk: Path, small_model: Path, tokenizer: PreTrainedTokenizerBase, probes: tuple[EncodedPair, ...]
) -> None:
    with pytest.raises(StorageError, match="No space left"):
        export_model(policy_of(small_model, adapter=False), tokenizer, frozenset({2}), probes, small_disk / "model")
    assert list(small_disk.iterdir()) == []
