"""A base in four bits under an adapter: close to the full model, frozen, and refused where it cannot be."""

import importlib
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from architectures import tiny
from test_parity import some_pairs

from evenhand.errors import ModelError, RecipeError
from evenhand.model import load
from evenhand.model.adapter import Adapter, attach
from evenhand.model.forward import Policy, causal
from evenhand.model.load import find_source, is_four_bit, load_model
from evenhand.model.pack import pack
from evenhand.training.optim import MasterAdamW
from evenhand.training.recipe import check_recipe

# bitsandbytes 0.49 asks torch by a name that torch is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:_check_is_size will be removed:FutureWarning")
CPU = torch.device("cpu")
installed = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    # Rows of whole blocks of 64 weights, as every real decoder has; bitsandbytes on a CPU knows no others.
    tiny("llama", intermediate_size=128).save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


@installed
def test_an_adapter_trains_on_a_base_in_four_bits(folder: Path) -> None:
    importlib.import_module("bitsandbytes")
    full = Policy(load_model(find_source(str(folder)), torch.float32, CPU))
    base = load_model(find_source(str(folder)), torch.float32, CPU, four_bit=True)
    assert is_four_bit(base)
    assert not is_four_bit(full.model)
    layer = base.model.layers[0].mlp.up_proj
    assert layer.weight.nbytes * 8 == layer.in_features * layer.out_features * 4
    policy = Policy(attach(base, Adapter(rank=4, alpha=8)))
    assert policy.padded_because is None
    assert is_four_bit(causal(policy.model))
    batch = pack(some_pairs())
    with torch.no_grad():
        wanted, found = full(batch), policy(batch)
    far = (wanted.chosen_mean_B - found.chosen_mean_B).abs().max()
    assert 0 < far < 0.3 * wanted.chosen_mean_B.abs().max()
    optimizer, packed = MasterAdamW(policy, 0.0), layer.weight.clone()
    losses = []
    for _ in range(4):
        loss = -policy(batch).mean_gap_B.sum()
        loss.backward()
        optimizer.step(1e-2)
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert torch.equal(layer.weight, packed)


@installed
def test_on_a_bf16_base_nothing_is_cast_there_and_back(folder: Path) -> None:
    base = load_model(find_source(str(folder)), torch.bfloat16, CPU, four_bit=True)
    trained = [w.dtype for w in attach(base, Adapter(rank=4, alpha=8)).parameters() if w.requires_grad]
    assert set(trained) == {torch.bfloat16}


def test_without_bitsandbytes_it_is_refused_in_a_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'evenhand\[gpu\]'"):
        load_model(find_source(str(folder)), torch.float32, CPU, four_bit=True)


def test_full_fine_tuning_of_four_bits_is_refused() -> None:
    recipe = {
        "name": "a",
        "model": {"source": "builtin:smollm2-135m", "load_in_4bit": True, "adapter": None},
        "data": {"train": "a.jsonl"},
        "objective": {"name": "simpo", "beta": 2.0, "margin": 0.5},
        "training": {"batch_pairs": 2, "steps": 1, "learning_rate": 1e-6, "seed": 0},
    }
    with pytest.raises(RecipeError, match="cannot be trained"):
        check_recipe(recipe, "a.yaml")
    recipe["model"] = {"source": "builtin:smollm2-135m", "load_in_4bit": True}
    assert check_recipe(recipe, "a.yaml").resolved()["model"]["load_in_4bit"] is True
