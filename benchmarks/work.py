"""What is computed: pairs as tokens, the same for every contender, and the operations that they cannot do without."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from evenhand.data.read import read_pairs
from evenhand.model.encode import EncodedPair, encode_pairs, side
from evenhand.model.forward import causal
from evenhand.model.load import find_source, load_model, load_tokenizer
from evenhand.model.modes import Form, encoder_for
from evenhand.model.pack import pack

KINDS = ("chat", "short", "dialogue", "ranked", "scoring")
BUILTIN = "builtin:smollm2-135m"
MAX_TOKENS = 2048
SHORT = (54, 193, 107)  # mean tokens of prompt, chosen and rejected answer
VERDICTS = 6  # of four answers without a tie

_LLAMA: dict[str, Any] = {"max_position_embeddings": 8192, "rope_theta": 500000.0, "rms_norm_eps": 1e-5}
# hidden, layers, heads, key-value heads, inner, vocabulary, tied
SHAPES = {
    "tiny": (32, 2, 4, 2, 64, 512, True),
    "1.2b": (2048, 16, 32, 8, 8192, 128256, True),
    "8b": (4096, 32, 32, 8, 14336, 128256, False),
}


@dataclass(frozen=True, slots=True)
class Work:
    """Steps of equal numbers of pairs; the first warms up."""

    steps: tuple[tuple[EncodedPair, ...], ...]

    @property
    def means(self) -> tuple[float, float, float]:
        """Mean tokens of prompt, chosen and rejected answer over the measured steps."""
        pairs = [pair for step in self.steps[1:] for pair in step]
        return tuple(float(np.mean(column)) for column in zip(*(lengths(pair) for pair in pairs)))  # type: ignore[return-value]


def data_folder() -> Path:
    """Where the real data lies: EVENHAND_DATA, else ../shared/data beside the repository."""
    return Path(os.environ.get("EVENHAND_DATA", Path(__file__).parents[2] / "shared" / "data"))


def load(model: str, dtype: torch.dtype, device: torch.device) -> Any:
    """The built-in model or a folder's, or a Llama shape with random weights made on the device, the same each time."""
    if model not in SHAPES:
        return resident(load_model(find_source(model), dtype, device))
    hidden, layers, heads, groups, inner, vocabulary, tied = SHAPES[model]
    config = LlamaConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        intermediate_size=inner,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
        **_LLAMA,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)


def resident(model: Any) -> Any:
    """The same model with every weight read once: a file that is only mapped would count as the steps' memory."""
    for weight in model.parameters():
        weight.detach().sum()
    return model


def work(kind: str, model: str, size: tuple[int, int], folder: Path) -> Work:
    """`size` is (pairs a step, measured steps); ranked work takes whole items, of six pairs each."""
    pairs, steps = size
    needed = pairs * (steps + 1)
    found = candidates(kind, model, needed, folder)
    if len(found) < needed:
        raise SystemExit(f"{kind} has {len(found)} pairs and {needed} are needed; ask for fewer `--pairs`.")
    if kind in ("chat", "dialogue", "scoring"):
        found = representative(found, pairs)[:needed]
    return Work(tuple(tuple(found[i : i + pairs]) for i in range(0, needed, pairs)))


def candidates(kind: str, model: str, needed: int, folder: Path) -> list[EncodedPair]:
    """Pairs of this kind."""
    text = model not in SHAPES
    if kind == "dialogue" or (kind != "ranked" and not text):
        return drawn(listed_lengths(kind, needed, folder), vocabulary(model))
    file = folder / ("qa_feedback_dev.json" if kind == "ranked" else "chat_pairs.json")
    encoded = read(file, model if text else BUILTIN)
    if kind == "ranked":
        whole = whole_items(encoded)
        return whole if text else redrawn(whole, vocabulary(model))
    return nearest(encoded, needed) if kind == "short" else encoded


def read(file: Path, model: str) -> list[EncodedPair]:
    """The pairs of a file as the tokens that TRL makes."""
    form = Form(MAX_TOKENS, compat="trl")
    encoder = encoder_for(load_tokenizer(find_source(model)), form)
    return list(encode_pairs(read_pairs(file)[1], encoder, form.limits, file.name).pairs)


def whole_items(pairs: Sequence[EncodedPair]) -> list[EncodedPair]:
    """The items of which all six verdicts are decided, one after the other."""
    items: dict[str, list[EncodedPair]] = {}
    for pair in pairs:
        items.setdefault(pair.group, []).append(pair)
    return [pair for item in items.values() if len(item) == VERDICTS for pair in item]


def representative(pairs: Sequence[EncodedPair], warm_up: int) -> list[EncodedPair]:
    """The pairs in that order, of 500 seeded ones, whose first measured step has lengths nearest to the file's means."""
    rows = np.array([lengths(pair) for pair in pairs], dtype=float)
    orders = [np.random.default_rng(seed).permutation(len(pairs)) for seed in range(500)]
    goal = rows.mean(0)
    best = min(orders, key=lambda order: np.abs(rows[order[warm_up : 2 * warm_up]].mean(0) / goal - 1).sum())
    return [pairs[i] for i in best]


def lengths(pair: EncodedPair) -> tuple[int, int, int]:
    """Tokens of prompt, chosen and rejected answer."""
    return pair.chosen.starts, pair.chosen.scored, pair.rejected.scored


def distance(found: Sequence[int]) -> float:
    """How far lengths are from the mean of short work, in shares of it."""
    return sum(abs(n - goal) / goal for n, goal in zip(found, SHORT))


def nearest(pairs: Sequence[EncodedPair], count: int) -> list[EncodedPair]:
    """The pairs whose lengths come nearest to those of short work."""
    return sorted(pairs, key=lambda pair: distance(lengths(pair)))[:count]


def listed_lengths(kind: str, needed: int, folder: Path) -> list[tuple[int, int, int]]:
    """Real lengths that fit: all of them, or those nearest to short work."""
    rows = json.loads((folder / "lengths.json").read_text())["dialogue" if kind == "dialogue" else "chat"]
    fitting = [(p, c, r) for p, c, r in rows if min(p, c, r) > 0 and p + max(c, r) <= MAX_TOKENS]
    return sorted(fitting, key=distance)[:needed] if kind == "short" else fitting


def drawn(rows: Sequence[tuple[int, int, int]], tokens: int) -> list[EncodedPair]:
    """Random tokens of the given lengths: a shared prompt and answers that differ from the first token on."""
    draw = np.random.default_rng(0)
    pairs = []
    for row, (p, c, r) in enumerate(rows):
        prompt, chosen, rejected = (draw.integers(3, tokens, n) for n in (p, c, r))
        rejected[0] = 3 + (chosen[0] - 2) % (tokens - 3)
        sides = (side([*prompt, *answer], p) for answer in (chosen, rejected))
        pairs.append(EncodedPair(row, str(row), str(row), *sides))
    return pairs


def redrawn(pairs: Sequence[EncodedPair], tokens: int) -> list[EncodedPair]:
    """Every token replaced by a random one, equal ones by equal ones: lengths and shared beginnings stay."""
    new = np.random.default_rng(0).integers(3, tokens, 1 << 20)
    return [
        EncodedPair(p.row, p.id, p.group, *(side(new[s.tokens].tolist(), s.starts) for s in (p.chosen, p.rejected)))
        for p in pairs
    ]


def vocabulary(model: str) -> int:
    """Tokens to draw from."""
    return SHAPES[model][5] if model in SHAPES else len(load_tokenizer(find_source(model)))


def useful_flops(model: Any, pairs: Sequence[EncodedPair], passes: int) -> float:
    """The operations of the forest of these pairs, each done once.

    `passes` times 2 per weight and token: 1 for scoring, 2 for LoRA (its gradient has no product for frozen weights),
    3 for full training; the output layer on scored tokens only. Attention: 4 per head width and seen key forward,
    8 more backward.
    """
    inner = causal(model)
    head = inner.get_output_embeddings().weight
    packed = pack(pairs)
    layers = sum(
        w.numel() for n, w in inner.named_parameters() if w.ndim == 2 and "lora_" not in n and "embed" not in n
    )
    layers -= 0 if inner.config.tie_word_embeddings else head.numel()
    config = inner.config
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    seen = 0
    for start, end, key_start, key_end in packed.forest.runs:
        asking, before = end - start, key_end - key_start - (end - start)
        seen += asking * before + asking * (asking + 1) // 2
    matrices = 2 * passes * (layers * packed.tokens + head.numel() * len(packed.target_N))
    return float(matrices + (4 if passes == 1 else 12) * width * seen * config.num_hidden_layers)
