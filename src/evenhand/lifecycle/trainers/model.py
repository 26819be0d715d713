"""The model that a script hands over: opened by name, cast, given its adapter."""

from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evenhand.errors import ModelError, RecipeError
from evenhand.lifecycle.trainers.config import PreferenceConfig
from evenhand.model.adapter import fuse
from evenhand.model.load import DtypeName, choose_device, choose_dtype, find_source, load_model, load_tokenizer

_DTYPES: dict[Any, DtypeName] = {
    None: "auto",
    "auto": "auto",
    "float32": "float32",
    "bfloat16": "bfloat16",
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
}


def open_model(model: str | PreTrainedModel | PeftModel, args: PreferenceConfig) -> PreTrainedModel | PeftModel:
    """The model itself, or the one of that name, where it will be trained and in the precision asked for."""
    device = torch.device("cpu") if args.use_cpu else choose_device()
    asked = dict(args.model_init_kwargs or {})
    if isinstance(model, str):
        dtype = asked.pop("dtype", asked.pop("torch_dtype", None))
        if asked or dtype not in _DTYPES:
            raise RecipeError(
                f"`model_init_kwargs` has {asked or {'dtype': dtype}}; only dtype float32 or bfloat16 is heeded."
            )
        model = load_model(find_source(model), choose_dtype(_DTYPES[dtype], device), device)
    elif asked:
        raise RecipeError(f"`model_init_kwargs` is {asked}, and the model is loaded already; leave it out.")
    model = model.to(device)
    return model.to(torch.bfloat16) if args.bf16 else model


def wrap_model(
    model: PreTrainedModel | PeftModel, peft_config: PeftConfig | None, args: PreferenceConfig
) -> PreTrainedModel | PeftModel:
    """The model with the adapter asked for, in its own precision and drawn from `args.seed`; without dropout if so asked."""
    if peft_config is not None:
        if isinstance(model, PeftModel):
            raise ModelError("`model` has an adapter already, and `peft_config` asks for another; give one of the two.")
        torch.manual_seed(args.seed)  # which draws the adapter
        model = get_peft_model(model, peft_config, autocast_adapter_dtype=False)
        fuse(model)
    if args.disable_dropout:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    return model


def tokenizer_of(model: str | PreTrainedModel | PeftModel) -> PreTrainedTokenizerBase:
    """The tokenizer of the place that the model comes from; raises ModelError where it does not say."""
    name = name_of(model)
    if not name:
        raise ModelError(
            "`processing_class` is missing, and the model does not say where it comes from; give its tokenizer."
        )
    return load_tokenizer(find_source(name))


def name_of(model: str | PreTrainedModel | PeftModel) -> str:
    """The model's name or folder; empty where nothing tells."""
    return model if isinstance(model, str) else str(getattr(model.config, "_name_or_path", "") or "")
