"""What a recipe trains on: pairs read, split and encoded, with every row accounted for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from evenhand.data.prompts import prompt_kind
from evenhand.data.read import describe, read_pairs
from evenhand.data.schema import PreferencePair, Reading, Refusal, by_reason
from evenhand.data.snapshot import content_hash, read_snapshot, snapshot_refusals
from evenhand.data.split import split
from evenhand.data.votes import answer_kind, describe_answers, read_answers
from evenhand.errors import DataError, RecipeError
from evenhand.model.encode import EncodedPair, Encoding, require_pairs
from evenhand.model.modes import Form
from evenhand.model.store import count_cut, rows_of
from evenhand.model.workshop import Workshop
from evenhand.objectives.objective import Examples
from evenhand.training.sections import DataSection

# (pairs done, pairs in all)
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Texts:
    """Pairs as text, before any tokenizer: both sides, what was refused, and what was said while reading."""

    train: tuple[PreferencePair, ...]
    validation: tuple[PreferencePair, ...]
    refusals: tuple[Refusal, ...]
    rows_in: int
    rows_used: int
    said: tuple[str, ...]
    hash: str


@dataclass(frozen=True, slots=True)
class Material:
    """Encoded pairs of both sides; `held_out` are the texts of `validation`, in the same order."""

    train: Sequence[EncodedPair]
    validation: Sequence[EncodedPair]
    held_out: tuple[PreferencePair, ...]
    refusals: tuple[Refusal, ...]
    rows_in: int
    rows_used: int
    said: tuple[str, ...]
    hash: str

    @property
    def has_pairs(self) -> bool:
        """Whether what is held out can be compared: an answer with another."""
        return any(pair.lacks is None for pair in self.held_out)

    @property
    def refused(self) -> dict[str, int]:
        """Refused rows by reason, most frequent first."""
        return by_reason(self.refusals)


def read_texts(section: DataSection, examples: Examples = "pairs") -> Texts:
    """Read and split what the recipe names; raises DataError where nothing usable is left.

    For an objective that learns from single answers, files of demonstrations or of thumbs are read too.
    """
    if section.source is not None and (Path(section.source) / "dataset.json").exists():
        if section.validation is not None:
            raise RecipeError(
                f"{section.source} is curated data with a split of its own; leave `data.validation` out of the recipe."
            )
        return _snapshot_texts(Path(section.source))
    if section.train is not None:
        return _given_texts(section, examples)
    assert section.source is not None
    reading, pairs, words = _read(section.source, section.kind, examples)
    said = [words, *reading.notes]
    train: tuple[PreferencePair, ...] = pairs
    validation: tuple[PreferencePair, ...] = ()
    if isinstance(section.validation, float):
        parts = split(pairs, section.validation, section.split_seed)
        train, validation = parts.train, parts.validation
        said.append(f"split by prompt family: {len(train)} pairs to train on, {len(validation)} held out")
    return Texts(
        train,
        validation,
        reading.refusals,
        reading.rows_in,
        reading.rows_used,
        tuple(said),
        content_hash(train, validation),
    )


def encode_texts(
    texts: Texts,
    tokenizer: PreTrainedTokenizerBase,
    form: Form,
    store: Path | None = None,
    report: Progress = lambda *_: None,
) -> Material:
    """Turn the texts into tokens; rows that do not fit join the refusals. Raises DataError where no pair is left.

    With `store`, a folder, the tokens are kept there and mapped from there: a second call with the same texts and
    form encodes nothing, and memory does not grow with the number of pairs.
    """
    total = len(texts.train) + len(texts.validation)
    workshop = Workshop(tokenizer, form, store)
    first = len(texts.train)
    train = workshop.encode(texts.train, "train", "training data", lambda n: report(n, total))
    validation = workshop.encode(texts.validation, "validation", "validation data", lambda n: report(first + n, total))
    used = require_pairs(train, "training data")
    if texts.validation:
        require_pairs(validation, "validation data")
    lost = (*refused_rows(train), *refused_rows(validation))
    left_out = sum(len(left_out_pairs(side)) for side in (train, validation))
    kept = {(pair.row, pair.id) for pair in validation.pairs}
    cut = count_cut(used) + count_cut(validation.pairs)
    said = list(texts.said)
    if cut:
        said.append(f"{cut} pairs were cut to fit and lost their end of turn")
    if left_out:
        said.append(f"{left_out} pairs of ranked rows do not fit; their rows are used without them")
    return Material(
        train=used,
        validation=validation.pairs,
        held_out=tuple(pair for pair in texts.validation if (pair.row, pair.id) in kept),
        refusals=(*texts.refusals, *lost),
        rows_in=texts.rows_in,
        rows_used=texts.rows_used - len(lost),
        said=tuple(said),
        hash=texts.hash,
    )


def refused_rows(encoding: Encoding) -> tuple[Refusal, ...]:
    """One refusal for each row of which no pair became tokens; a ranked row with some pairs left is used."""
    used = _used_among(encoding)
    first: dict[int, Refusal] = {}
    for refusal in encoding.refusals:
        if refusal.row not in used:
            first.setdefault(refusal.row, refusal)
    return tuple(first.values())


def left_out_pairs(encoding: Encoding) -> tuple[Refusal, ...]:
    """The refused pairs of rows that are used all the same."""
    used = _used_among(encoding)
    return tuple(refusal for refusal in encoding.refusals if refusal.row in used)


def _used_among(encoding: Encoding) -> set[int]:
    """The rows with a refused pair of which another pair is used."""
    refused = np.array([refusal.row for refusal in encoding.refusals], dtype=np.int64)
    return set(np.intersect1d(rows_of(encoding.pairs), refused).tolist())


def _read(source: str, kind: str | None, examples: Examples) -> tuple[Reading, tuple[PreferencePair, ...], str]:
    """What a file holds, as pairs, and a sentence about it."""
    alone = answer_kind(source) if examples != "pairs" and kind is None else None
    if alone is None and examples == "prompts" and kind is None:
        alone = prompt_kind(source)
    if alone is not None:
        reading, pairs = read_answers(source, alone)
        return reading, pairs, describe_answers(reading, alone)
    reading, pairs = read_pairs(source, kind)
    return reading, pairs, describe(reading)


def _given_texts(section: DataSection, examples: Examples) -> Texts:
    train_file, validation_file, kind = section.train, section.validation, section.kind
    assert train_file is not None
    reading, train, words = _read(train_file, kind, examples)
    said = [f"{train_file}: {words}", *reading.notes]
    if not isinstance(validation_file, str):
        return Texts(
            train, (), reading.refusals, reading.rows_in, reading.rows_used, tuple(said), content_hash(train, ())
        )
    other, validation, words = _read(validation_file, kind, examples)
    said += [f"{validation_file}: {words}", *other.notes]
    _refuse_leak(train, validation, validation_file)
    return Texts(
        train,
        validation,
        (*reading.refusals, *other.refusals),
        reading.rows_in + other.rows_in,
        reading.rows_used + other.rows_used,
        tuple(said),
        content_hash(train, validation),
    )


def _snapshot_texts(folder: Path) -> Texts:
    snapshot = read_snapshot(folder)
    rows, refusals = snapshot.dataset["rows"], snapshot_refusals(folder)
    said = (
        f"{folder}: curated data {snapshot.hash[:12]} from {rows['in']} rows, {len(refusals)} of them refused; "
        f"{len(snapshot.train)} pairs to train on, {len(snapshot.validation)} held out"
    )
    return Texts(snapshot.train, snapshot.validation, refusals, rows["in"], rows["used"], (said,), snapshot.hash)


def _refuse_leak(train: tuple[PreferencePair, ...], validation: tuple[PreferencePair, ...], name: str) -> None:
    seen = {pair.prompt for pair in train}
    leaked = [pair for pair in validation if pair.prompt in seen]
    if leaked:
        raise DataError(
            f"{name}: {len(leaked)} of {len(validation)} held-out prompts are also trained on, the first is row "
            f"{leaked[0].row}; remove them, or give one `source` and let it be split by prompt family."
        )
