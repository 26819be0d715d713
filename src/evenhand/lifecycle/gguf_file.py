"""A decoder of the Llama family as one GGUF file in half precision, for llama.cpp and what builds on it.

The layout is that of llama.cpp's convert_hf_to_gguf.py: queries and keys of Llama are permuted, norms stay in fp32.
"""

import json
from pathlib import Path
from typing import Any

import gguf
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evenhand.errors import ExportError
from evenhand.model.template import added_pieces

_ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
_LARGEST_HALF = 65504.0
# llama.cpp knows a vocabulary's splitting of text by name; the name follows from the pattern that splits numbers.
_NUMBERS = {r"\p{N}{1,3}": "llama-bpe", r"|\p{N}|": "qwen2"}


def write_gguf(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stops: frozenset[int], file: Path) -> None:
    """Write `model` and its vocabulary as F16; `stops` are the tokens at which a server ends a reply.

    Raises ExportError for an architecture, a vocabulary or a position encoding that this writer does not know.
    """
    kind = str(model.config.model_type)
    if kind not in _ARCHITECTURES:
        raise ExportError(
            f"no GGUF is written for {kind} models, only for {', '.join(_ARCHITECTURES)}; export with --merge and use "
            "llama.cpp's convert_hf_to_gguf.py on that."
        )
    architecture = _ARCHITECTURES[kind]
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[architecture])
    try:
        _write_settings(writer, model.config)
        _write_vocabulary(writer, tokenizer, stops, int(model.config.vocab_size))
        _add_tensors(writer, model, architecture)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _write_settings(writer: gguf.GGUFWriter, config: Any) -> None:
    rope: dict[str, Any] = dict(getattr(config, "rope_parameters", None) or {})
    if rope.get("rope_type", "default") != "default":
        raise ExportError(
            f"no GGUF is written for {rope['rope_type']!r} position scaling; export with --merge instead."
        )
    if getattr(config, "attention_bias", False) and config.model_type in ("llama", "mistral"):
        raise ExportError("no GGUF is written for Llama models with attention biases; export with --merge instead.")
    heads = int(config.num_attention_heads)
    width = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10000.0)))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)


def _write_vocabulary(
    writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerBase, stops: frozenset[int], size: int
) -> None:
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    if description["model"]["type"] != "BPE":
        raise ExportError(
            f"no GGUF is written for {description['model']['type']} vocabularies, only for byte-level BPE."
        )
    special = {piece.token_id: piece.special for piece in added_pieces(tokenizer)}
    text_of = {number: text for text, number in tokenizer.get_vocab().items()}
    kinds = {True: gguf.TokenType.CONTROL, False: gguf.TokenType.USER_DEFINED}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitting_of(description))
    writer.add_token_list([text_of.get(i, f"[PAD{i}]") for i in range(size)])
    plain, unused = gguf.TokenType.NORMAL, gguf.TokenType.UNUSED
    writer.add_token_types(
        [kinds[special[i]] if i in special else plain if i in text_of else unused for i in range(size)]
    )
    merges = description["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id if tokenizer.eos_token_id in stops else min(stops))
    if others := sorted(stops - {tokenizer.eos_token_id}):
        writer.add_eot_token_id(others[0])
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(tokenizer.encode("x")[:1] == [tokenizer.bos_token_id])
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def splitting_of(description: dict[str, Any]) -> str:
    """llama.cpp's name for how a tokenizer.json splits text before merging; raises ExportError where it has none."""
    splitter = description.get("pre_tokenizer") or {}
    steps = splitter.get("pretokenizers", [splitter])
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") and steps[1].get("use_regex", True):
        return "smollm"
    if kinds == ["Split", "ByteLevel"]:
        pattern = str(steps[0].get("pattern", {}).get("Regex", ""))
        for part, name in _NUMBERS.items():
            if part in pattern:
                return name
    raise ExportError(
        f"no GGUF is written for a vocabulary that splits text by {kinds}, which llama.cpp would not be told by name; "
        "export with --merge and use llama.cpp's convert_hf_to_gguf.py on that."
    )


def _add_tensors(writer: gguf.GGUFWriter, model: PreTrainedModel, architecture: gguf.MODEL_ARCH) -> None:
    config = model.config
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    tied = bool(config.tie_word_embeddings)
    for name, weight in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if theirs is None:
            raise ExportError(f"no GGUF is written: its layout has no place for {name}; export with --merge instead.")
        weight = weight.detach().cpu()
        part = name.split(".")[-2]
        if architecture == gguf.MODEL_ARCH.LLAMA and part in heads:
            weight = _permuted(weight, heads[part])
        writer.add_tensor(theirs, _stored(weight, name).numpy())


def _stored(weight: Tensor, name: str) -> Tensor:
    """Matrices in half precision, vectors in full."""
    if weight.ndim < 2:
        return weight.float().contiguous()
    if float(weight.abs().max()) > _LARGEST_HALF:
        raise ExportError(f"{name} has weights beyond half precision's range, so no GGUF in F16 is written.")
    return weight.to(torch.float16).contiguous()


def _permuted(weight: Tensor, heads: int) -> Tensor:
    """Rows in GGML's order of rotary pairs: neighbours instead of halves."""
    rows = weight.shape[0]
    return weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
