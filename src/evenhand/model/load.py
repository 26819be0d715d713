"""A model and tokenizer from a folder, a hub id or the built-in package; nothing that executes code is ever loaded."""

import json
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from evenhand.errors import ModelError
from evenhand.model import builtin
from evenhand.model.places import place_of

DtypeName = Literal["auto", "float32", "bfloat16"]
_BUILTIN = "builtin:"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
# Files that trainers leave beside weights; never opened.
_STRAY = {"training_args.bin", "optimizer.pt", "scheduler.pt", "optimizer.bin", "scheduler.bin"}


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model comes from: `folder` holds transformers files, or an adapter on the base that `base` names."""

    name: str
    folder: Path
    base: "Source | None" = None
    ignored: tuple[str, ...] = ()


def find_source(name: str) -> Source:
    """Resolve a folder, a run folder, a hub id or `builtin:smollm2-135m`, and check that it is safe to open.

    Raises ModelError for a missing or incomplete folder, weights that exist only as pickles, or custom code.
    """
    if name.startswith(_BUILTIN):
        if name != _BUILTIN + builtin.NAME:
            raise ModelError(f"{name} is not built in; the built-in model is {_BUILTIN}{builtin.NAME}.")
        return Source(name, builtin.builtin_folder())
    folder = Path(name).expanduser()
    if (folder / "model").is_dir() and (folder / "recipe.json").exists():
        folder = folder / "model"
    if not folder.is_dir():
        folder = _from_hub(name)
    ignored = check_safe(folder)
    adapter = folder / "adapter_config.json"
    if not adapter.exists():
        return Source(name, folder, None, ignored)
    base = _read_json(adapter).get("base_model_name_or_path")
    if not base:
        raise ModelError(f"{adapter} names no base model; add `base_model_name_or_path` to it.")
    return Source(name, folder, base_source(folder, str(base)), ignored)


def base_source(folder: Path, name: str) -> Source:
    """The base that an adapter or an export calls so; one without a name that others know, where this machine keeps it."""
    manifest = folder / "manifest.json"
    stated = _read_json(manifest).get("base") if manifest.exists() else None
    sha256 = stated.get("sha256") if isinstance(stated, dict) else None
    kept = (place_of(sha256) or {}).get("folder")
    if kept is not None and Path(kept).is_dir() and not Path(name).is_dir():  # a folder put here by hand goes before
        return replace(find_source(kept), name=name)
    try:
        return find_source(name)
    except ModelError as error:
        if sha256 is None or builtin_or_hub(name):
            raise
        raise ModelError(
            f"{folder} stands on a base called {name}, whose weights hash to {str(sha256)[:16]}, and this machine does not "
            f"know where that lies; run the command where a folder {name} holds it."
        ) from error


def builtin_or_hub(name: str) -> bool:
    """Whether a base of this name is found the same way on every machine."""
    return name.startswith(_BUILTIN) or (name.count("/") == 1 and not name.startswith((".", "/", "~")))


def check_safe(folder: Path) -> tuple[str, ...]:
    """Refuse pickled weights and custom code; returns the stray pickles that lie there and are never opened."""
    config_file = folder / "config.json"
    if not config_file.exists() and not (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{folder} holds neither config.json nor adapter_config.json; give a folder that transformers saved."
        )
    for name in ("config.json", "tokenizer_config.json", "adapter_config.json"):
        if (folder / name).exists() and _read_json(folder / name).get("auto_map"):
            raise ModelError(
                f"{folder / name} asks for custom code (`auto_map`), which evenhand never executes; "
                "use a model that transformers knows by itself."
            )
    pickles = sorted({file.name for pattern in _PICKLES for file in folder.glob(pattern)})
    weights = [name for name in pickles if name not in _STRAY]
    # PEFT falls back to a pickle beside any other safetensors, so an adapter's own file has to be there.
    adapter = (folder / "adapter_config.json").exists()
    safe = list(folder.glob("adapter_model.safetensors" if adapter else "*.safetensors"))
    if weights and not safe:
        raise ModelError(
            f"{folder} has its weights only as pickles ({', '.join(weights[:3])}), which can execute code; "
            "convert them to safetensors on a machine that you trust."
        )
    if adapter and not safe:
        raise ModelError(f"{folder} has no adapter_model.safetensors; save the adapter again with PEFT.")
    return tuple(pickles)


def load_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """The tokenizer of the folder, or of the base where an adapter's folder has none."""
    folder = source.folder
    if source.base and not (folder / "tokenizer_config.json").exists():
        return load_tokenizer(source.base)
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder}: the tokenizer cannot be loaded ({_first_line(error)}).") from error


def load_model(
    source: Source, dtype: torch.dtype, device: torch.device, four_bit: bool = False, rewards: bool | None = None
) -> PreTrainedModel | PeftModel:
    """The model in `dtype` on `device`; an adapter is put on its base, not merged.

    `four_bit` keeps the linear layers in NF4 (Dettmers et al. 2023, arXiv 2305.14314) and computes in `dtype`. `rewards`
    asks for a sequence classifier of one label, whose head is in fp32, and new where the folder has none; left out, the
    folder tells. Raises ModelError where the files do not make a model, or bitsandbytes is not installed.
    """
    transformers_logging.disable_progress_bar()
    rewards = is_reward_model(source) if rewards is None else rewards
    try:
        if source.base:
            base = load_model(source.base, dtype, device, four_bit, rewards)
            return _with_exact_head(_with_adapter(base, source.folder), rewards)
        with _quiet_about_new_heads():
            model, told = (AutoModelForSequenceClassification if rewards else AutoModelForCausalLM).from_pretrained(
                source.folder,
                dtype=dtype,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                **({"num_labels": 1} if rewards else {}),
                **(_four_bit(dtype, device) if four_bit else {}),
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{source.folder}: the model cannot be loaded ({_first_line(error)}).") from error
    _require_all(source.folder, {key for key in told["missing_keys"] if not (rewards and key.startswith("score."))})
    _with_exact_head(model, rewards)
    if not four_bit:
        return model.to(device)
    for module in model.modules():
        # After one forward in eval mode bitsandbytes would repack a CPU's weights for a product without a gradient.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def _with_adapter(base: PreTrainedModel, folder: Path) -> PeftModel:
    """The adapter on its base; PEFT leaves what the file has not as it was drawn, and only warns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Found missing adapter keys")
        model = PeftModel.from_pretrained(base, folder, is_trainable=False)
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        _require_all(folder, get_peft_model_state_dict(model, save_embedding_layers=False).keys() - set(file.keys()))
    return model


def _require_all(folder: Path, missing: Collection[str]) -> None:
    """Raise ModelError where a weight is missing, which the libraries would draw at random and go on."""
    if missing:
        raise ModelError(
            f"{folder}: {len(missing)} of the model's weights are not in its files, {min(missing)} for one, so it is another "
            "model or has been changed; save it again."
        )


def is_reward_model(source: Source) -> bool:
    """Whether the folder holds a sequence classifier, or an adapter for one, rather than a language model."""
    adapter = source.folder / "adapter_config.json"
    if adapter.exists():
        return _read_json(adapter).get("task_type") == "SEQ_CLS"
    named = _read_json(source.folder / "config.json").get("architectures")
    return isinstance(named, list) and any(str(name).endswith("ForSequenceClassification") for name in named)


def _with_exact_head(model: PreTrainedModel | PeftModel, rewards: bool) -> PreTrainedModel | PeftModel:
    """The model with its reward head in fp32; bf16 tells rewards apart only to three digits."""
    if rewards:
        inner = model.get_base_model() if isinstance(model, PeftModel) else model
        inner.score.float()
    return model


@contextmanager
def _quiet_about_new_heads() -> Iterator[None]:
    """transformers warns of every weight that a folder has not; a language model has no reward head, and need not."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def is_four_bit(model: PreTrainedModel | PeftModel) -> bool:
    """Whether the model was loaded with its linear layers in four bits."""
    return bool(getattr(model, "is_loaded_in_4bit", False))


def _four_bit(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    if find_spec("bitsandbytes") is None:
        raise ModelError(
            "`model.load_in_4bit` needs bitsandbytes, which is not installed; run `pip install 'evenhand[gpu]'`."
        )
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_use_double_quant=True,
    )
    return {"quantization_config": settings, "device_map": {"": device}}


def choose_device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def choose_dtype(name: DtypeName, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the hardware multiplies it faster, else float32."""
    if name != "auto":
        return torch.bfloat16 if name == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if cpu_multiplies_bf16() else torch.float32


def cpu_multiplies_bf16() -> bool:
    """Whether this CPU has tiles for bf16 (AMX).

    AVX512-BF16 alone is no reason to choose it: on a Xeon without AMX, fp32 products ran at 280 GFLOP/s, bf16 at 150.
    """
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)())


def _from_hub(name: str) -> Path:
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name:
        raise ModelError(f"{name} is not a folder; check the path.")
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]))
    except (HFValidationError, RepositoryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"{name} is neither a folder nor reachable on the hub ({_first_line(error)}); "
            "check the path, or download the model where there is a network."
        ) from error


def _read_json(file: Path) -> dict[str, object]:
    try:
        value = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} is not readable JSON ({_first_line(error)}).") from error
    if not isinstance(value, dict):
        raise ModelError(f"{file} does not hold a JSON object.")
    return value


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
