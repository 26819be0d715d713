"""A tiny random chat model on disk, small preference files and a recipe for them: what whole runs are tested on."""

import json
import random
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from evenhand.lifecycle.bench import Telling

WORDS = [
    "parcel",
    "invoice",
    "driver",
    "window",
    "kettle",
    "garden",
    "refund",
    "ladder",
    "bottle",
    "ticket",
    "harbor",
    "engine",
    "blanket",
    "mirror",
    "pencil",
    "saddle",
    "copper",
    "velvet",
    "orange",
    "basket",
    "signal",
    "hammer",
    "meadow",
    "anchor",
    "button",
    "candle",
    "dragon",
    "feather",
    "glacier",
    "helmet",
    "island",
    "jacket",
    "kitchen",
    "lantern",
    "magnet",
    "needle",
    "oyster",
    "pocket",
    "quarry",
    "ribbon",
    "shovel",
    "tunnel",
    "umbrella",
    "violin",
    "walnut",
    "yogurt",
    "zipper",
    "canvas",
]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def small_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 400 tokens with a ChatML template; the same one each time."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([" ".join(WORDS), "system user assistant"], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=SPECIAL[1], eos_token=SPECIAL[2], pad_token=SPECIAL[0]
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def small_llama(vocabulary: int = 400) -> LlamaForCausalLM:
    """Two layers of width 32 with weights large enough that answers differ; the same ones each time."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(4.0)
    return model.eval()


def save_small_model(folder: Path) -> Path:
    """The model with its tokenizer as a folder that transformers loads."""
    small_llama().save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)
    return folder


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """`count` preference rows with unlike prompts; the chosen answer is the shorter one two times in three."""
    draw = random.Random(seed)

    def text(words: int) -> str:
        return " ".join(draw.choices(WORDS, k=words))

    made = []
    for i in range(count):
        short, long = text(draw.randint(2, 5)), text(draw.randint(6, 12))
        chosen, rejected = (short, long) if i % 3 else (long, short)
        made.append({"prompt": text(9), "chosen": chosen, "rejected": rejected})
    return made


def learnable(count: int) -> list[dict[str, Any]]:
    """`count` rows whose answers tell by their words which one is chosen, and not by their length."""
    right, wrong = ["parcel", "invoice", "driver", "window"] * 2, ["violin", "walnut", "yogurt", "zipper"] * 2
    return [
        row | {"chosen": " ".join(right[: 7 if i % 2 else 4]), "rejected": " ".join(wrong[: 4 if i % 2 else 7])}
        for i, row in enumerate(rows(count))
    ]


def write_rows(path: Path, values: list[dict[str, Any]]) -> Path:
    """The rows as JSONL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


def recipe_value(model: Path, data: dict[str, Any], **training: Any) -> dict[str, Any]:
    """A recipe for a run of a few seconds, as the dictionary that its YAML would give."""
    loop = {"batch_pairs": 6, "steps": 5, "learning_rate": 1e-3, "seed": 0, "token_budget": 256, **training}
    return {
        "name": "small",
        "model": {"source": str(model), "adapter": {"rank": 4, "alpha": 8}, "dtype": "float32"},
        "data": data,
        "objective": {"name": "simpo", "beta": 2.0, "margin": 0.5},
        "training": loop,
        "evaluation": {"prompts": 2, "max_new_tokens": 5},
    }


def write_recipe(path: Path, value: dict[str, Any]) -> Path:
    """The recipe as YAML."""
    path.write_text(yaml.safe_dump(value, sort_keys=False), encoding="utf-8")
    return path


def listening() -> tuple[Telling, list[str]]:
    """A Telling, and the list in which its sentences arrive."""
    said: list[str] = []
    return Telling(said.append, lambda *_: None, lambda *_: None), said
