"""Pairs in the forms that other trainers read: TRL, OpenAI's preference format, LLaMA-Factory."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evenhand.data.read import read_pairs
from evenhand.data.schema import Message, PreferencePair
from evenhand.data.snapshot import content_hash, read_snapshot
from evenhand.errors import DataError
from evenhand.files import write_json, write_whole

_SHAREGPT = {"user": "human", "assistant": "gpt", "tool": "observation"}

Row = dict[str, Any]


def trl_row(pair: PreferencePair) -> Row:
    """TRL's conversational form: `prompt`, `chosen` and `rejected` as message lists."""
    row = pair.json()
    return {name: row[name] for name in ("prompt", "chosen", "rejected")}


def openai_row(pair: PreferencePair) -> Row:
    """OpenAI's preference form: `input.messages`, `preferred_output`, `non_preferred_output`."""
    row = pair.json()
    return {
        "input": {"messages": row["prompt"]},
        "preferred_output": row["chosen"],
        "non_preferred_output": row["rejected"],
    }


def llamafactory_row(pair: PreferencePair) -> Row:
    """LLaMA-Factory's ShareGPT form: `conversations`, `chosen` and `rejected` as one turn each, `system` beside them."""
    system, turns = ("", pair.prompt)
    if turns[0].role == "system":
        system, turns = turns[0].content, turns[1:]
    return {
        "conversations": [_sharegpt(turn) for turn in turns],
        "chosen": {"from": "gpt", "value": pair.chosen},
        "rejected": {"from": "gpt", "value": pair.rejected},
        "system": system,
    }


FORMS: Mapping[str, Callable[[PreferencePair], Row]] = {
    "trl": trl_row,
    "openai": openai_row,
    "llamafactory": llamafactory_row,
}


def convert(source: str, form: str, out: Path, kind: str | None = None) -> dict[str, Any]:
    """Write the pairs of a snapshot or of any source as JSONL into the folder `out`; returns what was written.

    A snapshot gives train.jsonl and validation.jsonl, anything else pairs.jsonl; source.json says which data it was.
    Raises DataError for an unknown form or a folder that holds something already.
    """
    if form not in FORMS:
        raise DataError(f"`{form}` is no form that evenhand writes; known are {', '.join(FORMS)}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists and holds something; choose another folder or remove it.")
    sides, root = _sides(source, kind)
    for name, pairs in sides.items():
        lines = (json.dumps(FORMS[form](pair), ensure_ascii=False, allow_nan=False) + "\n" for pair in pairs)
        write_whole(out / f"{name}.jsonl", "".join(lines))
    if form == "llamafactory":
        write_json(out / "dataset_info.json", {name: _dataset_info(name) for name in sides})
    told = {"source": source, "form": form, "hash": root, "rows": {name: len(pairs) for name, pairs in sides.items()}}
    write_json(out / "source.json", told)
    return told


def _sides(source: str, kind: str | None) -> tuple[dict[str, Sequence[PreferencePair]], str]:
    if (Path(source) / "dataset.json").is_file():
        snapshot = read_snapshot(Path(source))
        return {"train": snapshot.train, "validation": snapshot.validation}, snapshot.hash
    _, pairs = read_pairs(source, kind)
    return {"pairs": pairs}, content_hash(pairs, ())


def _sharegpt(turn: Message) -> dict[str, str]:
    return {"from": _SHAREGPT[turn.role], "value": turn.content}


def _dataset_info(name: str) -> dict[str, Any]:
    """The entry that LLaMA-Factory's dataset_info.json needs for a file."""
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "system": "system"}
    return {"file_name": f"{name}.jsonl", "formatting": "sharegpt", "ranking": True, "columns": columns}
