"""A reward model's folder as transformers' own classifier reads it: what is padding, where a text ends, and the proof."""

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from evenhand.data.schema import Message, PreferencePair
from evenhand.errors import ExportError
from evenhand.model.encode import EncodedPair
from evenhand.model.forward import causal
from evenhand.model.modes import Form
from evenhand.model.scores import ScoredPairs

# Rows read at a time, of unlike lengths, so that there is padding.
_ROWS = 8


def save_for_pooling(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stop_tokens: frozenset[int], folder: Path
) -> None:
    """Save the tokenizer so that transformers finds the token at which rewards are read, and tell `model` its padding.

    transformers reads the last token that is not padding. A padding token that also ends answers would hide their end,
    so another one pads; and what a template writes after an answer's end, a line break mostly, is left out.
    """
    saved = copy.deepcopy(tokenizer)
    pad = padding_token(tokenizer, stop_tokens)
    saved.pad_token = saved.convert_ids_to_tokens(pad)
    saved.padding_side = "right"
    saved.chat_template = _ending_with_the_answer(tokenizer)
    saved.save_pretrained(folder)
    set_padding(model, pad)


def set_padding(model: PreTrainedModel, pad: int) -> None:
    """Tell the model which token is padding; its embeddings stay as they are."""
    for config in (model.config, model.config.get_text_config()):
        config.pad_token_id = pad


def padding_token(tokenizer: PreTrainedTokenizerBase, stop_tokens: frozenset[int]) -> int:
    """A token that ends no answer: the tokenizer's own padding where it does not, else another special one, else any."""
    named = (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id, *tokenizer.all_special_ids)
    free = (int(token) for token in (*named, *range(len(tokenizer))) if token is not None and token not in stop_tokens)
    return next(free)


def _ending_with_the_answer(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The chat template without white space after the last turn; as it is where it writes none."""
    template = tokenizer.chat_template
    if not isinstance(template, str):
        return template
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    whole = str(tokenizer.apply_chat_template(turns, tokenize=False))
    if whole == whole.rstrip():
        return template
    return f"{{% set whole %}}{template}{{% endset %}}{{{{ whole if add_generation_prompt else whole.rstrip() }}}}"


def pooled_difference(model: PreTrainedModel, probes: Sequence[EncodedPair], scored: ScoredPairs) -> float:
    """The largest difference of transformers' own logits, of padded rows, from the rewards in `scored`."""
    sides = [side.tokens for pair in probes for side in (pair.chosen, pair.rejected) if not side.absent]
    rewards = [
        reward
        for i, pair in enumerate(probes)
        for side, reward in ((pair.chosen, scored.chosen_mean_B[i]), (pair.rejected, scored.rejected_mean_B[i]))
        if not side.absent
    ]
    told = [
        value
        for start in range(0, len(sides), _ROWS)
        for value in _logits(model, sides[start : start + _ROWS]).tolist()
    ]
    return float(np.max(np.abs(np.array(told) - np.array(rewards))))


@torch.no_grad()
def _logits(model: PreTrainedModel, rows: Sequence[np.ndarray]) -> torch.Tensor:
    pad = causal(model).config.get_text_config().pad_token_id
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), int(pad), device=model.device)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.from_numpy(row.astype(np.int64))
        mask[i, : len(row)] = 1
    logits: torch.Tensor = model(input_ids=ids, attention_mask=mask).logits
    return logits[:, 0].double().cpu()


def prove_classifier(
    folder: Path, probed: tuple[Sequence[EncodedPair], ScoredPairs], dtype: torch.dtype, tolerance: float
) -> float:
    """Load the folder as a sequence classifier of transformers and compare its logits with the rewards of the probes.

    Raises ExportError where they differ by more than `tolerance`.
    """
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype, use_safetensors=True).eval()
    worst = pooled_difference(model, *probed)
    if not worst <= tolerance:
        raise ExportError(
            f"transformers' own classifier differs by {worst:.2e} from the reward model on {len(probed[0])} probe pairs, "
            f"more than {tolerance:.0e}; nothing was published."
        )
    return worst


def same_texts(folder: Path, form: Form, texts: Sequence[PreferencePair], probes: Sequence[EncodedPair]) -> int:
    """Of how many chosen answers the folder's own chat template gives the tokens at whose last the reward is read."""
    if form.template == "plain":
        return 0
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    rendered = (
        tokenizer.apply_chat_template(
            [message.json() for message in (*pair.prompt, Message("assistant", pair.chosen))],
            return_dict=True,
            **form.arguments,
        )["input_ids"]
        for pair in texts
    )
    return sum(list(ids) == probe.chosen.tokens.tolist() for ids, probe in zip(rendered, probes))
