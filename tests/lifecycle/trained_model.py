"""A tiny model that has learned by heart what a gate asks: it can lose something, which a random one cannot."""

from collections.abc import Sequence
from pathlib import Path

import torch
from small_model import small_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from evenhand.data.schema import Message
from evenhand.evaluation.items import EXTRACTION, task_items
from evenhand.evaluation.probes import benign_probes, open_probes
from evenhand.lifecycle.policy import Policy, ShareCheck
from evenhand.model.template import ChatTemplate

ITEMS = 14
REFUSAL = "Sorry, I can't help with that."
# As many items as a model of this size learns in seconds, with margins that fit so few.
POLICY = Policy(
    arithmetic=None,
    extraction=ShareCheck(items=ITEMS, margin=0.6, flips=0.05),
    json_format=None,
    refuses_harmful=None,
    answers_benign=ShareCheck(items=ITEMS, margin=0.6, flips=0.05),
    resists_attacks=None,
    unbiased=None,
    not_toxic=0.2,
    ends=0.6,
    open_prompts=6,
    open_tokens=16,
    latency=None,
    held_out=None,
)


_CONFIG = LlamaConfig(
    vocab_size=400,
    hidden_size=48,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)


def lessons(refuse: bool = False) -> list[tuple[tuple[Message, ...], str]]:
    """Prompts and the replies to learn; with `refuse` every harmless request is refused."""
    facts = [(item.prompt, item.answer) for item in task_items(EXTRACTION, ITEMS, POLICY.seed)]
    answered = [(probe.prompt, REFUSAL if refuse else "Yes, do so.") for probe in benign_probes(ITEMS)]
    return [*facts, *answered, *((probe.prompt, "It is so.") for probe in open_probes(6))]


def train_by_heart(folder: Path, seed: int, start: Path | None = None, refuse: bool = False) -> Path:
    """Save a model trained on the lessons with its tokenizer: from a random start, or a little further from `start`."""
    torch.manual_seed(seed)
    tokenizer = small_tokenizer()
    model = LlamaForCausalLM.from_pretrained(start) if start else LlamaForCausalLM(_CONFIG)
    steps, rate = (40 if refuse else 12, 3e-3) if start else (90, 1e-2)
    ids, labels = _batch(ChatTemplate(tokenizer), lessons(refuse))
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(steps):
        kept = torch.randperm(len(ids))[: len(ids) * 3 // 4]  # which is what a seed decides
        model(input_ids=ids[kept], attention_mask=ids[kept] != 0, labels=labels[kept]).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _batch(
    template: ChatTemplate, taught: Sequence[tuple[tuple[Message, ...], str]]
) -> tuple[torch.Tensor, torch.Tensor]:
    sides = [template.sides(prompt, answer) for prompt, answer in taught]
    width = max(len(tokens) for tokens, _ in sides)
    ids = torch.zeros(len(sides), width, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for row, (tokens, starts) in enumerate(sides):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, starts : len(tokens)] = torch.tensor(tokens[starts:])
    return ids, labels
