"""Models load from safetensors alone: pickles are never opened and code that comes with a model never runs."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import tiny
from chat_tokenizers import chat_tokenizer
from safetensors.torch import save_file

from evenhand.errors import ModelError
from evenhand.model.adapter import Adapter, attach
from evenhand.model.load import (
    choose_device,
    choose_dtype,
    cpu_multiplies_bf16,
    find_source,
    load_model,
    load_tokenizer,
)

CPU = torch.device("cpu")


class Gadget:
    """Unpickling it creates the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple:
        return Path.touch, (self.canary,)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "llama"
    tiny("llama").save_pretrained(folder)
    chat_tokenizer("llama3").save_pretrained(folder)
    return folder


@pytest.fixture
def adapter_folder(tmp_path: Path, model_folder: Path) -> Path:
    model = attach(load_model(find_source(str(model_folder)), torch.float32, CPU), Adapter(rank=2, alpha=4))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.fill_(0.05)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def plant(file: Path, canary: Path) -> None:
    file.write_bytes(pickle.dumps(Gadget(canary)))


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps((json.loads(file.read_text()) if file.exists() else {}) | changes))


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return load_model(find_source(str(folder)), torch.float32, CPU).eval()(torch.arange(3, 20)[None]).logits


def test_the_gadget_works(canary: Path, tmp_path: Path) -> None:
    plant(tmp_path / "x.bin", canary)
    assert not canary.exists()
    pickle.loads((tmp_path / "x.bin").read_bytes())
    assert canary.exists()


def test_a_saved_folder_gives_its_model_and_tokenizer(model_folder: Path) -> None:
    source = find_source(str(model_folder))
    assert (source.name, source.folder, source.base, source.ignored) == (str(model_folder), model_folder, None, ())
    with torch.no_grad():
        assert torch.equal(logits(model_folder), tiny("llama")(torch.arange(3, 20)[None]).logits)
    text = "Where is my parcel?<|eot_id|>"
    assert load_tokenizer(source)(text)["input_ids"] == chat_tokenizer("llama3")(text)["input_ids"]


def test_a_run_folder_gives_the_model_in_it(model_folder: Path, tmp_path: Path) -> None:
    shutil.move(model_folder, tmp_path / "run" / "model")
    (tmp_path / "run" / "recipe.json").write_text("{}")
    assert find_source(str(tmp_path / "run")).folder == tmp_path / "run" / "model"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "model.pkl", "last.ckpt"])
def test_weights_that_are_only_a_pickle_are_refused_unopened(model_folder: Path, canary: Path, name: str) -> None:
    (model_folder / "model.safetensors").unlink()
    plant(model_folder / name, canary)
    with pytest.raises(ModelError, match=rf"only as pickles \({name}\).*safetensors"):
        find_source(str(model_folder))
    assert not canary.exists()


@pytest.mark.parametrize("name", ["training_args.bin", "optimizer.pt", "pytorch_model.bin"])
def test_a_pickle_beside_safetensors_is_named_and_never_opened(model_folder: Path, canary: Path, name: str) -> None:
    plant(model_folder / name, canary)
    source = find_source(str(model_folder))
    assert source.ignored == (name,)
    load_tokenizer(source)
    load_model(source, torch.float32, CPU)
    assert not canary.exists()


def test_safetensors_that_are_not_the_weights_open_no_pickle(model_folder: Path, canary: Path) -> None:
    (model_folder / "model.safetensors").unlink()
    save_file({"x": torch.zeros(1)}, model_folder / "decoy.safetensors")
    plant(model_folder / "pytorch_model.bin", canary)
    with pytest.raises(ModelError):
        load_model(find_source(str(model_folder)), torch.float32, CPU)
    assert not canary.exists()


@pytest.mark.parametrize("decoy", [False, True], ids=["pickle", "pickle and other safetensors"])
def test_an_adapter_that_is_only_a_pickle_is_refused_unopened(adapter_folder: Path, canary: Path, decoy: bool) -> None:
    (adapter_folder / "adapter_model.safetensors").unlink()
    if decoy:
        save_file({"x": torch.zeros(1)}, adapter_folder / "decoy.safetensors")
    plant(adapter_folder / "adapter_model.bin", canary)
    with pytest.raises(ModelError, match=r"adapter_model\.bin"):
        find_source(str(adapter_folder))
    assert not canary.exists()


def test_an_adapter_without_weights_is_refused(adapter_folder: Path) -> None:
    (adapter_folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors"):
        find_source(str(adapter_folder))


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "adapter_config.json"])
def test_custom_code_is_refused_and_never_run(model_folder: Path, canary: Path, name: str) -> None:
    (model_folder / "modeling_trap.py").write_text(
        f"import pathlib\npathlib.Path({str(canary)!r}).touch()\nTrap = object\n"
    )
    trap = dict.fromkeys(("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"), "modeling_trap.Trap")
    edit(model_folder / name, auto_map=trap)
    with pytest.raises(ModelError, match=rf"{name} asks for custom code.*auto_map"):
        find_source(str(model_folder))
    assert not canary.exists()


def test_an_adapter_loads_on_its_base_unmerged(adapter_folder: Path, model_folder: Path) -> None:
    source = find_source(str(adapter_folder))
    assert source.base is not None
    assert source.base.folder == model_folder
    model = load_model(source, torch.float32, CPU).eval()
    assert not any(weight.requires_grad for weight in model.parameters())
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        # 0.05 in both factors, rank 2, scaled by 4 / 2, on every linear layer but the output
        by_hand = tiny("llama")
        for name, layer in by_hand.named_modules():
            if isinstance(layer, torch.nn.Linear) and name != "lm_head":
                layer.weight += 2.0 * 2 * 0.05 * 0.05
        assert torch.allclose(model(ids).logits, by_hand(ids).logits, atol=1e-4)
        with model.disable_adapter():
            assert torch.equal(model(ids).logits, logits(model_folder))
    assert len(load_tokenizer(source)) == len(chat_tokenizer("llama3"))


def test_an_adapter_that_names_no_base_is_refused(adapter_folder: Path) -> None:
    edit(adapter_folder / "adapter_config.json", base_model_name_or_path=None)
    with pytest.raises(ModelError, match="names no base model"):
        find_source(str(adapter_folder))


def test_an_unsafe_base_is_refused_through_its_adapter(adapter_folder: Path, model_folder: Path) -> None:
    edit(model_folder / "config.json", auto_map={"AutoConfig": "modeling_trap.Trap"})
    with pytest.raises(ModelError, match="auto_map"):
        find_source(str(adapter_folder))


def test_what_is_no_model_is_refused_by_name(tmp_path: Path, model_folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"empty holds neither config\.json"):
        find_source(str(tmp_path / "empty"))
    with pytest.raises(ModelError, match="nowhere is not a folder; check the path"):
        find_source(str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match=r"builtin:gpt5 is not built in; .*builtin:smollm2-135m"):
        find_source("builtin:gpt5")
    with pytest.raises(ModelError, match="neither a folder nor reachable on the hub"):
        find_source("some-owner/some-model")


@pytest.mark.parametrize("text", ["{not json", "[1, 2]", "\udcff"], ids=["broken", "list", "not utf-8"])
def test_configurations_that_cannot_be_read_are_refused(model_folder: Path, text: str) -> None:
    (model_folder / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ModelError, match=r"config\.json .*JSON"):
        find_source(str(model_folder))


def test_files_that_make_no_model_are_refused(model_folder: Path) -> None:
    (model_folder / "model.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(ModelError, match="the model cannot be loaded"):
        load_model(find_source(str(model_folder)), torch.float32, CPU)
    edit(model_folder / "config.json", model_type="no-such-decoder")
    with pytest.raises(ModelError, match="the model cannot be loaded"):
        load_model(find_source(str(model_folder)), torch.float32, CPU)
    for file in model_folder.glob("token*"):
        file.unlink()
    with pytest.raises(ModelError, match="the tokenizer cannot be loaded"):
        load_tokenizer(find_source(str(model_folder)))


def test_an_adapter_of_another_shape_or_cut_short_is_refused(adapter_folder: Path) -> None:
    source, weights = find_source(str(adapter_folder)), adapter_folder / "adapter_model.safetensors"
    whole = weights.read_bytes()
    edit(adapter_folder / "adapter_config.json", r=3)
    with pytest.raises(ModelError, match="adapter: the model cannot be loaded"):
        load_model(source, torch.float32, CPU)
    edit(adapter_folder / "adapter_config.json", r=2)
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="adapter: the model cannot be loaded"):
        load_model(source, torch.float32, CPU)
    weights.write_bytes(whole)
    assert load_model(source, torch.float32, CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_come_in_the_dtype_asked_for(model_folder: Path, dtype: torch.dtype) -> None:
    model = load_model(find_source(str(model_folder)), dtype, CPU)
    assert {weight.dtype for weight in model.parameters()} == {dtype}


def test_dtype_and_device() -> None:
    assert choose_dtype("float32", CPU) == torch.float32
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16
    assert choose_dtype("auto", CPU) == (torch.bfloat16 if cpu_multiplies_bf16() else torch.float32)
    assert choose_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    flags = {
        word for line in Path("/proc/cpuinfo").read_text().splitlines() if "flags" in line for word in line.split()
    }
    assert cpu_multiplies_bf16() == ("amx_tile" in flags)
