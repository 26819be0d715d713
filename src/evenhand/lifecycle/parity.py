"""Whether a server speaks to the model as training did: chat template, special and stop tokens, compared by files."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from evenhand.data.schema import Message
from evenhand.errors import ModelError, UserError
from evenhand.lifecycle.manifest import Problem
from evenhand.model.load import check_safe
from evenhand.model.template import added_pieces

_PROBES: tuple[tuple[Message, ...], ...] = (
    (Message("user", "Where is my parcel?"),),
    (Message("system", "You help customers."), Message("user", "Where is my parcel?")),
    (Message("user", "Hi."), Message("assistant", "Hello."), Message("user", " 3 + 14 = ?\n")),
)


def serving_problems(folder: Path, server: Path) -> list[Problem]:
    """In what the model folder of a server would feed or stop otherwise than the exported one; empty where nothing.

    Raises UserError where either folder has no tokenizer, ModelError where one asks for custom code.
    """
    ours, theirs = _tokenizer(folder), _tokenizer(server)
    return [*_template_problems(ours, theirs), *_token_problems(ours, theirs), *_stop_problems(folder, server)]


def _template_problems(ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase) -> list[Problem]:
    """Only what the templates write counts, not how they are written."""
    for prompt in _PROBES:
        one, other = _fed(ours, prompt), _fed(theirs, prompt)
        if one != other:
            return [Problem("chat template", f"feeds {other!r} for a prompt where training fed {one!r}")]
    return []


def _fed(tokenizer: PreTrainedTokenizerBase, prompt: tuple[Message, ...]) -> list[int] | str:
    """The prompt's tokens, or that the template refuses it."""
    if not tokenizer.chat_template:
        return "nothing: it has no chat template"
    turns = [message.json() for message in prompt]
    try:
        made = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)
        return [int(token) for token in made["input_ids"]]
    except Exception as error:  # a template may raise anything
        return f"nothing: it refuses the prompt ({error})"


def _token_problems(ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase) -> list[Problem]:
    found = []
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        one, other = getattr(ours, name), getattr(theirs, name)
        if one != other:
            found.append(Problem(name, f"is {other!r} at the server and {one!r} in training"))
    pieces, their_pieces = ({p.text: p for p in added_pieces(tokenizer)} for tokenizer in (ours, theirs))
    for text in sorted(pieces.keys() | their_pieces.keys()):
        if pieces.get(text) != their_pieces.get(text):
            found.append(Problem(f"special token {text!r}", _piece_words(their_pieces.get(text), pieces.get(text))))
    return found


def _piece_words(theirs: Any, ours: Any) -> str:
    def words(piece: Any) -> str:
        return "missing" if piece is None else f"token {piece.token_id}{'' if piece.special else ', not special'}"

    return f"is {words(theirs)} at the server and {words(ours)} in training"


def _stop_problems(folder: Path, server: Path) -> list[Problem]:
    ours, theirs = _stops(folder), _stops(server)
    if missing := sorted(ours - theirs):
        return [Problem("stop tokens", f"are {sorted(theirs)} at the server; {missing} are missing, so replies run on")]
    if more := sorted(theirs - ours):
        return [Problem("stop tokens", f"are {sorted(theirs)} at the server; {more} would cut replies short")]
    return []


def _stops(folder: Path) -> set[int]:
    """What a server stops at: the generation settings' tokens, else the model's."""
    for name in ("generation_config.json", "config.json"):
        file = folder / name
        listed = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file.exists() else None
        if listed is not None:
            return set(listed) if isinstance(listed, list) else {listed}
    return set()


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the model folder that the server loads.")
    check_safe(folder)
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder} has no tokenizer that can be loaded ({str(error).splitlines()[0]}).") from error
