"""Proof that an exported folder is the model that was trained: its neighbours' own loaders, the same numbers and words."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gguf
import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel, PreTrainedTokenizerBase

from evenhand.data.harbor import harbor
from evenhand.data.read import read_pairs
from evenhand.data.schema import PreferencePair
from evenhand.errors import ExportError
from evenhand.evaluation.items import EXTRACTION, JSON_FORMAT, task_items
from evenhand.lifecycle.classifier import prove_classifier, same_texts
from evenhand.lifecycle.export import TOLERANCE, differences
from evenhand.lifecycle.llama_cpp import greedy, llama_cpp, reply_difference, require_same_prompts
from evenhand.model.encode import EncodedPair, encode_pairs
from evenhand.model.forward import Policy, causal, serving
from evenhand.model.modes import Form, encoder_for, prompt_encoder
from evenhand.model.score import score_pairs
from evenhand.model.scores import ScoredPairs

ROWS = 64
_REPLIES = 4
_NEW_TOKENS = 48
_SEED = 7
GGUF_TOLERANCE = 5e-2  # nats per token, as TOLERANCE


@dataclass(frozen=True, slots=True)
class Witness:
    """What the trained model says and scores, to hold an exported one against."""

    tokenizer: PreTrainedTokenizerBase
    form: Form
    probes: Sequence[EncodedPair]
    texts: tuple[PreferencePair, ...]
    scored: ScoredPairs
    replies: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]  # the prompt's tokens, the greedy reply's
    reply_nats: tuple[tuple[float, ...], ...]  # log-probability of each of the reply's tokens
    stops: frozenset[int]


@dataclass(frozen=True, slots=True)
class Proof:
    """What was compared, and how far the exported model was off."""

    loader: str
    rows: int
    largest_difference: float
    tolerance: float
    mean_difference: float | None
    same_prompt_tokens: int
    replies_alike: int | None
    replies_ended: int | None

    def json(self) -> dict[str, Any]:
        """The proof as a manifest keeps it; differences are of mean log-probabilities, in nats per token."""
        return {
            "loader": self.loader,
            "rows": self.rows,
            "largest_difference": self.largest_difference,
            "tolerance": self.tolerance,
            "mean_difference": self.mean_difference,
            "same_prompt_tokens": self.same_prompt_tokens,
            "replies_alike": self.replies_alike,
            "replies_ended": self.replies_ended,
        }


def probe_pairs() -> tuple[PreferencePair, ...]:
    """Built-in rows, long and short, the same ones on every machine."""
    with TemporaryDirectory() as scratch:
        file = Path(scratch) / "harbor.jsonl"
        file.write_text("\n".join(harbor(_SEED, judgments=120).lines[:80]), encoding="utf-8")
        tickets = read_pairs(file)[1]
    short = [item for kind in (JSON_FORMAT, EXTRACTION) for item in task_items(kind, 40, _SEED)]
    rows = [
        PreferencePair(f"task {i}", 1000 + i, f"task {i}", item.prompt, item.answer, "I do not know.")
        for i, item in enumerate(short)
    ]
    return (*tickets[: ROWS // 2], *rows)


def witness(policy: Policy, tokenizer: PreTrainedTokenizerBase, form: Form) -> Witness:
    """Score the probe rows and answer some of their prompts with the trained model."""
    positions = getattr(causal(policy.model).config.get_text_config(), "max_position_embeddings", None)
    form = Form(min(1024, positions or 1024), form.template, arguments=form.arguments)
    pairs = probe_pairs()
    probes = encode_pairs(pairs, encoder_for(tokenizer, form), form.limits, "probe rows").pairs[:ROWS]
    if len(probes) < ROWS:
        raise ExportError(
            f"only {len(probes)} of the {ROWS} probe rows fit into the model's {positions} positions, so an export of it "
            "cannot be proved; nothing was published."
        )
    kept = {(probe.row, probe.id) for probe in probes}
    texts = tuple(pair for pair in pairs if (pair.row, pair.id) in kept)
    feed, stops = prompt_encoder(tokenizer, form)
    asked = [(pair.prompt, None) for pair in texts[-_REPLIES:]]
    prompts = [tuple(feed(prompt)) for prompt, _ in asked]
    scored = score_pairs(policy, probes)
    replies = [] if policy.gives_rewards else _replies(policy.model, prompts, sorted(stops))  # rewards say nothing
    answered = tuple(zip(prompts, replies))
    nats = tuple(_nats(policy.model, *both) for both in answered)
    return Witness(tokenizer, form, probes, texts, scored, answered, nats, stops)


def prove_adapter(seen: Witness, folder: Path, base: Path, dtype: torch.dtype) -> Proof:
    """Load the adapter with PEFT on its base and compare."""
    bare = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, use_safetensors=True)
    return _prove(seen, PeftModel.from_pretrained(bare, folder), folder, (_named("PEFT", dtype), _allowed(dtype)))


def prove_merged(seen: Witness, folder: Path, dtype: torch.dtype) -> Proof:
    """Load the merged model with transformers and compare."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True)
    return _prove(seen, model, folder, (_named("transformers", dtype), _allowed(dtype)))


def _allowed(dtype: torch.dtype) -> float:
    """For one answer. Rounding to half precision moves short answers several times further than the mean of all."""
    return TOLERANCE[dtype] if dtype == torch.float32 else 5 * TOLERANCE[dtype]


def _named(loader: str, dtype: torch.dtype) -> str:
    return loader if dtype == torch.float32 else f"{loader}, {str(dtype).removeprefix('torch.')}"


def prove_rewards(seen: Witness, folder: Path, dtype: torch.dtype) -> Proof:
    """Load the reward model with transformers, and compare its own logits, from padded rows and from text."""
    worst = prove_classifier(folder, (seen.probes, seen.scored), dtype, TOLERANCE[dtype])
    alike = same_texts(folder, seen.form, seen.texts, seen.probes)
    return Proof(
        "transformers, sequence classifier", len(seen.probes), worst, TOLERANCE[dtype], None, alike, None, None
    )


def prove_gguf(seen: Witness, file: Path) -> Proof:
    """Load the GGUF with transformers and compare; its vocabulary must be the tokenizer's own, merge by merge."""
    model = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    worst, mean = _accepted_differences(seen, model, ("GGUF", GGUF_TOLERANCE))
    _require_vocabulary(file, seen.tokenizer)
    return Proof("transformers, gguf_file", len(seen.probes), worst, GGUF_TOLERANCE, mean, len(seen.texts), None, None)


def prove_by_llama_cpp(seen: Witness, file: Path) -> Proof:
    """Let llama.cpp load the GGUF and compare: the prompts' tokens, and how probable its greedy replies are to it.

    Needs `llama_cpp.is_installed()`. Raises ExportError where llama.cpp differs or does not stop.
    """
    feed = prompt_encoder(seen.tokenizer, seen.form)[0]
    fed = [feed(pair.prompt) for pair in seen.texts]
    alike = ended = silent = 0
    found: list[float] = []
    with llama_cpp(file, max(map(len, fed)) + 2 * _NEW_TOKENS) as client:
        same = require_same_prompts(client, seen.texts, fed, (seen.tokenizer, seen.form))
        for (prompt, reply), nats in zip(seen.replies, seen.reply_nats):
            told, stopped = greedy(client, prompt, _NEW_TOKENS)
            said = reply[: -1 if _ended(reply, seen) else None]
            if (difference := reply_difference(told, tuple(zip(reply, nats)))) is not None:
                found.append(difference)
            alike += tuple(token for token, _ in told)[: len(said)] == said and stopped == _ended(reply, seen)
            ended += stopped
            silent += _ended(reply, seen) and not stopped
    worst = float(np.max(found)) if found else float("nan")
    if not worst <= GGUF_TOLERANCE or (silent and not ended):
        raise ExportError(
            f"llama.cpp's greedy replies differ by {worst:.2e} nats per token, or do not end; nothing was published."
        )
    return Proof("llama.cpp", len(seen.replies), worst, GGUF_TOLERANCE, None, same, alike, ended)


def _prove(seen: Witness, model: PreTrainedModel | PeftModel, folder: Path, how: tuple[str, float]) -> Proof:
    loader, tolerance = how
    worst, mean = _accepted_differences(seen, model, how)
    _require_prompt_tokens(seen, AutoTokenizer.from_pretrained(folder, trust_remote_code=False))
    config = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    listed = config.get("eos_token_id")
    own_stops = listed if isinstance(listed, list) else [listed]
    if not seen.stops <= set(own_stops):
        raise ExportError(
            f"the exported model stops at {own_stops} and serving at {sorted(seen.stops)}; nothing was published."
        )
    alike = ended = silent = 0
    with serving(model):
        for prompt, reply in seen.replies:
            own = _greedy(model, prompt, own_stops)
            alike += own == reply
            ended += bool(own) and own[-1] in seen.stops
            silent += _ended(reply, seen) and not _ended(own, seen)
    # In half precision a reply may take another turn at a near tie and end later; that none ends is another matter.
    if silent and (tolerance <= TOLERANCE[torch.float32] or not ended):
        raise ExportError("the exported model does not stop where the trained one does; nothing was published.")
    return Proof(loader, len(seen.probes), worst, tolerance, mean, len(seen.texts), alike, ended)


def _ended(reply: tuple[int, ...], seen: Witness) -> bool:
    return bool(reply) and reply[-1] in seen.stops


def _replies(
    model: PreTrainedModel | PeftModel, prompts: Sequence[tuple[int, ...]], stops: Sequence[int]
) -> list[tuple[int, ...]]:
    with serving(model):
        return [_greedy(model, prompt, stops) for prompt in prompts]


def _nats(model: PreTrainedModel | PeftModel, prompt: tuple[int, ...], reply: tuple[int, ...]) -> tuple[float, ...]:
    """The log-probability of each token of a reply."""
    ids = torch.tensor([[*prompt, *reply]], device=model.device)
    with serving(model), torch.no_grad():
        logits_TV = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    return tuple(logits_TV.log_softmax(-1)[range(len(reply)), list(reply)].tolist())


def _greedy(model: Any, prompt: tuple[int, ...], stops: Sequence[int]) -> tuple[int, ...]:
    """The tokens of a greedy reply by the library's own `generate`."""
    ids = torch.tensor([list(prompt)], device=model.device)
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=_NEW_TOKENS,
        eos_token_id=list(stops),
        pad_token_id=stops[0],
    )
    return tuple(int(token) for token in out[0, ids.shape[1] :])


def _accepted_differences(
    seen: Witness, model: PreTrainedModel | PeftModel, how: tuple[str, float]
) -> tuple[float, float]:
    """The largest change of an answer's mean log-probability, and the mean over answers; raises ExportError beyond
    tolerance."""
    loader, tolerance = how
    moved = differences(seen.scored, score_pairs(Policy(model), seen.probes))
    worst, mean = float(np.max(moved)), float(np.mean(moved))
    # In half precision the mean has a bound of its own, of 2e-2.
    for what, found, allowed in (("", worst, tolerance), (" in the mean", mean, max(TOLERANCE.values()))):
        if not found <= allowed:
            raise ExportError(
                f"the exported model, loaded by {loader}, differs by {found:.2e} nats per token{what} on "
                f"{len(seen.probes)} probe rows, more than {allowed:.0e}; nothing was published."
            )
    return worst, mean


def _require_prompt_tokens(seen: Witness, tokenizer: PreTrainedTokenizerBase) -> None:
    """The reloaded tokenizer's own chat template must give the tokens that were trained on."""
    feed = prompt_encoder(seen.tokenizer, seen.form)[0]
    for pair in seen.texts:
        ours = feed(pair.prompt)
        if seen.form.template == "plain":
            theirs = prompt_encoder(tokenizer, seen.form)[0](pair.prompt)
        else:
            turns = [message.json() for message in pair.prompt]
            made = tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, return_dict=True, **seen.form.arguments
            )
            theirs = list(made["input_ids"])
        if list(theirs) != list(ours):
            raise ExportError(
                f"the exported tokenizer gives {len(theirs)} tokens for a prompt that has {len(ours)} in training; "
                "nothing was published."
            )


def _require_vocabulary(file: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    fields = gguf.GGUFReader(file).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    own = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    own_merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in own]
    wrong = [text for text, i in tokenizer.get_vocab().items() if tokens[i] != text]
    if wrong or merges != own_merges:
        raise ExportError(f"the GGUF's vocabulary differs from the tokenizer's ({wrong[:3]}); nothing was published.")
