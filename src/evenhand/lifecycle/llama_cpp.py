"""A GGUF as llama.cpp itself reads it, where its bindings are installed: the same tokens, greedy words as probable."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import torch
from transformers import PreTrainedTokenizerBase

from evenhand.data.schema import PreferencePair
from evenhand.errors import ExportError
from evenhand.model.modes import Form

NOT_ASKED = "llama.cpp itself was not asked: its bindings are missing, pip install 'evenhand[llamacpp]'"
# A reply's tokens, each with its log-probability where that is known.
Told = tuple[tuple[int, float | None], ...]
_SECONDS = 600.0
_QUIET = -1


def is_installed() -> bool:
    """Whether llama.cpp can be asked."""
    return find_spec("xllamacpp") is not None


@contextmanager
def llama_cpp(file: Path, positions: int) -> Iterator[httpx.Client]:
    """llama.cpp's own server of `file` on loopback, until the end of the block; raises ExportError where it cannot load it."""
    import xllamacpp  # noqa: PLC0415

    settings = xllamacpp.CommonParams()
    settings.model.path = str(file)
    settings.n_ctx, settings.n_parallel = positions, 1
    settings.cpuparams.n_threads = torch.get_num_threads()
    settings.warmup, settings.verbosity = False, _QUIET
    try:
        server = xllamacpp.Server(settings)
    except RuntimeError as error:
        raise ExportError(f"llama.cpp cannot load {file.name} ({error}); nothing was published.") from error
    with httpx.Client(base_url=server.listening_address, timeout=_SECONDS, trust_env=False) as client:
        yield client
    del server


def require_same_prompts(
    client: httpx.Client, texts: Sequence[PreferencePair], fed: Sequence[Sequence[int]], how: tuple[Any, Form]
) -> int:
    """Of how many prompts llama.cpp makes the tokens that training fed, which must be all; none in plain mode."""
    tokenizer, form = how
    if form.template == "plain":
        return 0
    for pair, ours in zip(texts, fed):
        theirs = _tokens(client, _rendered(tokenizer, pair, form))
        if theirs != list(ours):
            raise ExportError(
                f"llama.cpp gives {len(theirs)} tokens for a prompt that has {len(ours)} in training; nothing was published."
            )
    return len(texts)


def greedy(client: httpx.Client, prompt: Sequence[int], new_tokens: int) -> tuple[Told, bool]:
    """llama.cpp's greedy reply to a prompt, and whether it ended by itself."""
    asked = {"prompt": list(prompt), "n_predict": new_tokens, "temperature": 0.0, "n_probs": 1, "return_tokens": True}
    found = client.post("/completion", json=asked).raise_for_status().json()
    told = [(int(own["id"]), float(own["logprob"])) for own in found.get("completion_probabilities", ())]
    return with_nats([int(token) for token in found["tokens"]], told), found["stop_type"] == "eos"


def with_nats(tokens: Sequence[int], told: Sequence[tuple[int, float]]) -> Told:
    """Each token with its log-probability; None where it was not told, as for one that ends inside a character.

    >>> with_nats([7, 8, 9], [(7, -0.5), (9, -0.25)])
    ((7, -0.5), (8, None), (9, -0.25))
    """
    rest = list(reversed(told))
    return tuple((token, rest.pop()[1] if rest and rest[-1][0] == token else None) for token in tokens)


def reply_difference(own: Told, other: Told) -> float | None:
    """Mean difference of the log-probabilities of two greedy replies up to where they part, that token included.

    There each model's own favourite is compared, which is as probable where the two were in a near tie. None where no
    log-probability was told.

    >>> reply_difference(((4, -0.5), (5, -0.25), (6, -0.9)), ((4, -0.5), (7, -0.75)))
    0.25
    """
    found = []
    for (one, nats), (two, others) in zip(own, other):
        if nats is not None and others is not None:
            found.append(abs(nats - others))
        if one != two:
            break
    return sum(found) / len(found) if found else None


def _tokens(client: httpx.Client, text: str) -> list[int]:
    asked = {"content": text, "add_special": False, "parse_special": True}
    return [int(token) for token in client.post("/tokenize", json=asked).raise_for_status().json()["tokens"]]


def _rendered(tokenizer: PreTrainedTokenizerBase, pair: PreferencePair, form: Form) -> str:
    turns = [message.json() for message in pair.prompt]
    return str(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False, **form.arguments))
