"""A model from disk and a file of pairs: their scores, or the whole evaluation."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from transformers import PreTrainedTokenizerBase

from evenhand.data.ledger import write_refusals
from evenhand.data.read import describe, read_pairs
from evenhand.data.schema import PreferencePair, Refusal, by_reason
from evenhand.data.snapshot import read_snapshot
from evenhand.errors import UserError
from evenhand.evaluation.evaluate import HeldOut, Narrator
from evenhand.lifecycle.base import require_shipped_base
from evenhand.lifecycle.manifest import NAME, read_manifest
from evenhand.model.encode import encode_pairs, require_pairs
from evenhand.model.forward import Policy
from evenhand.model.load import DtypeName, Source, choose_device, choose_dtype, find_source, load_model, load_tokenizer
from evenhand.model.modes import Form, encoder_for
from evenhand.model.score import score_pairs
from evenhand.model.scores import ScoredPairs
from evenhand.training.material import left_out_pairs, refused_rows
from evenhand.training.recipe import Recipe, check_recipe

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a command was asked to appraise; None for limits and template means the run's own, else 2048 and chat.

    `form` is that of another model, to which this one's scores are held: a reference is read as its policy is.
    """

    model: str
    data: str
    kind: str | None = None
    max_tokens: int | None = None
    template: str | None = None
    dtype: str = "auto"
    form: Form | None = None


@dataclass(frozen=True, slots=True)
class Appraised:
    """Scored pairs, what they were scored with, and every row that was refused."""

    scored: ScoredPairs
    held_out: HeldOut
    policy: Policy
    tokenizer: PreTrainedTokenizerBase
    refusals: tuple[Refusal, ...]
    rows_in: int
    rows_used: int

    @property
    def refused(self) -> dict[str, int]:
        """Refused rows by reason."""
        return by_reason(self.refusals)


def appraise(asked: Asked, say: Say, narrate: Narrator) -> Appraised:
    """Score every pair in the data; raises ModelError, DataError or UserError."""
    source = find_source(asked.model)
    require_shipped_base(source)
    form = asked.form or form_of(asked, source)
    given = given_pairs(asked.data, asked.kind)
    for sentence in given.said:
        say(sentence)
    pairs = given.pairs
    tokenizer = load_tokenizer(source)
    encoding = encode_pairs(pairs, encoder_for(tokenizer, form), form.limits, asked.data)
    encoded = require_pairs(encoding, asked.data)
    device = choose_device()
    policy = Policy(load_model(source, choose_dtype(dtype_name(asked.dtype), device), device))
    for sentence in policy.words():
        say(sentence)
    scored = score_pairs(policy, encoded, report=lambda done, total: narrate("scoring", done, total))
    kept = {(pair.row, pair.id) for pair in encoded}
    texts = tuple(pair for pair in pairs if (pair.row, pair.id) in kept)
    lost = refused_rows(encoding)
    if left_out := len(left_out_pairs(encoding)):
        say(f"{left_out} pairs of ranked rows do not fit; their rows are used without them")
    refusals = (*given.refusals, *lost)
    held_out = HeldOut(encoded, texts, form)
    return Appraised(scored, held_out, policy, tokenizer, refusals, given.rows_in, given.rows_used - len(lost))


@dataclass(frozen=True, slots=True)
class Given:
    """The pairs that a command was given, what became of the file's rows, and what there is to say of them."""

    pairs: tuple[PreferencePair, ...]
    refusals: tuple[Refusal, ...]
    rows_in: int
    rows_used: int
    said: tuple[str, ...]


def given_pairs(data: str, kind: str | None = None, training: bool = False) -> Given:
    """The pairs of a file, or of curated data the held-out side, the training side where that is asked for."""
    if (Path(data) / "dataset.json").exists():
        snapshot = read_snapshot(Path(data))
        side, name = (snapshot.train, "training") if training else (snapshot.validation, "held-out")
        rows = len({pair.row for pair in side})
        said = f"{data}: curated data, of which the {len(side)} {name} pairs are taken"
        return Given(side, (), rows, rows, (said,))
    reading, pairs = read_pairs(data, kind)
    return Given(pairs, reading.refusals, reading.rows_in, reading.rows_used, (describe(reading), *reading.notes))


def write_rows(path: Path, found: Appraised) -> Path:
    """Write the scores as Parquet and the refused rows beside it; returns the latter's path."""
    found.scored.write(path)
    refused = path.with_name(f"{path.stem}.refused.jsonl")
    write_refusals(refused, found.refusals)
    return refused


def form_of(asked: Asked, source: Source) -> Form:
    """How pairs become tokens: as asked, else as the run did it, else chat with at most 2048 tokens."""
    recipe = recipe_of(source)
    own = recipe.form if recipe is not None else Form(max_tokens=2048)
    template = asked.template or own.template
    if template not in get_args(Form.__annotations__["template"]):
        raise UserError(f"--template {template!r} is neither chat nor plain.")
    return Form(
        max_tokens=asked.max_tokens or own.max_tokens,
        template="plain" if template == "plain" else "chat",
        compat=own.compat,
        max_prompt_tokens=own.max_prompt_tokens,
        drop_turns=own.drop_turns,
        arguments=own.arguments,
    )


def recipe_of(source: Source) -> Recipe | None:
    """The resolved recipe of the run whose model this is, or which an export states; None where it is neither."""
    if (source.folder / NAME).exists():
        return check_recipe(read_manifest(source.folder)["recipe"], str(source.folder / NAME))
    run = source.folder.parent
    return run_recipe(run) if source.folder.name == "model" and (run / "recipe.json").exists() else None


def run_recipe(run: Path) -> Recipe:
    """The resolved recipe in a run folder."""
    file = run / "recipe.json"
    return check_recipe(json.loads(file.read_text(encoding="utf-8")), str(file))


def dtype_name(name: str) -> DtypeName:
    """`name` as a dtype that can be asked for; raises UserError for any other."""
    for known in get_args(DtypeName):
        if name == known:
            return known
    raise UserError(f"--dtype {name!r} is none of {', '.join(get_args(DtypeName))}.")
