"""One trial: an ordinary run without its report, in a folder named by what it is; done once, and gone on with after a kill."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from evenhand.errors import CollapseError, DataError, MemoryShortError, ModelError, NonFiniteError, RecipeError
from evenhand.evaluation.preference import PairTraits, evaluate_pairs
from evenhand.evaluation.report import Evaluated
from evenhand.figure import Figure
from evenhand.files import held, write_json
from evenhand.lifecycle.align import fit, identity_of, open_compared, open_folder, policy_of
from evenhand.lifecycle.base import weights_hash
from evenhand.lifecycle.bench import Bench, Telling
from evenhand.lifecycle.milestone import evaluated, rows_file
from evenhand.lifecycle.starting_model import reference_identity
from evenhand.lifecycle.validator import mean_loss, watched_prompts
from evenhand.model.load import Source, find_source, load_tokenizer
from evenhand.model.scores import ScoredPairs
from evenhand.training.journal import journal_of, read_journal
from evenhand.training.material import Material, encode_texts, read_texts
from evenhand.training.practice_sections import DrawingSection
from evenhand.training.ranks import Ranks
from evenhand.training.recipe import Recipe

# Told of each validation, with the step; answers whether the trial is hopeless.
Hopeless = Callable[[dict[str, Any], int], bool]
RESULT = "trial.json"
# What training says of these settings, and not of the disk, the database or the folder: the other trials may do better.
_OF_THE_TRIAL = (CollapseError, NonFiniteError, DataError, MemoryShortError, ModelError)


@dataclass(frozen=True, slots=True)
class Ground:
    """What all trials of a sweep share: data as tokens, tokenizer, model files, and what the model was before."""

    recipe: Recipe
    folder: Path
    source: Source
    tokenizer: PreTrainedTokenizerBase
    material: Material
    hashes: dict[str, str]
    before: Evaluated
    tell: Telling

    @property
    def start_tokens(self) -> Figure:
        """The untrained model's median reply to the prompts that a trial answers, in tokens."""
        replies = self.before.generation
        prompts = watched_prompts(self.recipe.guard, self.recipe.evaluation)
        return replies.first(prompts).median_tokens if replies else Figure(None, 0)

    @property
    def traits(self) -> PairTraits:
        """The families of the held-out pairs, in the order of `before`."""
        return PairTraits.of(self.before.scored, self.material.held_out)


def prepare_ground(recipe: Recipe, folder: Path, tell: Telling) -> Ground:
    """Read, encode, and see what the untrained model scores and says; what is there from before is taken.

    Raises RecipeError where nothing is held out to choose by.
    """
    source = find_source(recipe.model.source)
    texts = read_texts(recipe.data, recipe.objective.build().traits.examples)
    tokenizer = load_tokenizer(source)
    ranks = Ranks()
    hashes = {"model": weights_hash(source), "data": texts.hash, **reference_identity(recipe, ranks)}
    material = encode_texts(texts, tokenizer, recipe.form, folder / "tokens", partial(tell.narrate, "encoding"))
    if not material.has_pairs:
        raise RecipeError("a sweep chooses by held-out pairs, and there are none; give `data.validation`.")
    for sentence in material.said:
        tell.say(sentence)
    start = folder / "start"
    bench = Bench(recipe, tokenizer, material, policy_of(recipe, source), start, {}, tell, (), ranks)
    try:
        before = evaluated(bench, 0, None)
    finally:
        bench.policy.release()
    return Ground(recipe, folder, source, tokenizer, material, hashes, before, tell)


def run_trial(ground: Ground, recipe: Recipe, folder: Path, hopeless: Hopeless) -> dict[str, Any]:
    """Train `recipe` in `folder`, or read what came of it before; the result as JSON.

    `guard` says why a trial that fell apart or could not run cannot win, `pruned` that it was ended early. Waits for
    another process that is in the folder, which may be on the same trial.
    """
    identity = identity_of(recipe, ground.hashes, ground.tokenizer)
    kept = folder / RESULT
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder, ground.tell.say):
        if kept.exists():
            found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
            if found["identity"] == identity:
                return found
        result = {"identity": identity, **_trained(ground, recipe, (folder, identity), hopeless)}
        write_json(kept, result)
    return result


def _trained(ground: Ground, recipe: Recipe, place: tuple[Path, dict[str, str]], hopeless: Hopeless) -> dict[str, Any]:
    """What comes of training in a folder, under the identity that the folder gets."""
    folder, identity = place
    try:
        policy = policy_of(recipe, ground.source)
    except ModelError as error:  # the model could be opened before, so it is the adapter that cannot be put on it
        return unfit(str(error))
    pruned: list[int] = []

    def step(record: dict[str, Any], steps: int) -> None:
        ground.tell.step(record, steps)
        validation = record.get("validation")
        if validation and record["step"] < steps and not pruned and hopeless(validation, record["step"]):
            pruned.append(record["step"])

    told = Telling(ground.tell.say, ground.tell.narrate, step)
    bench = Bench(recipe, ground.tokenizer, ground.material, policy, folder, identity, told, (), Ranks())
    guard, model_step = None, None
    try:
        open_folder(bench, [])
        compared = open_compared(bench)  # what is wrong with it is wrong with every trial
        try:
            model_step = fit(bench, ground.before, lambda: bool(pruned), compared).model_step
        except _OF_THE_TRIAL as error:
            guard = str(error)
    finally:
        policy.release()
    if model_step is None:
        return unfit(str(guard), _seconds(folder))
    figures = _figures(bench, model_step, (ground.before, compared.held_out))
    return {"guard": None, "pruned": pruned[0] if pruned else None, **figures}


def unfit(why: str, seconds: float = 0.0) -> dict[str, Any]:
    """The result of a trial that has no weights to be judged by."""
    return {"guard": why, "pruned": None, "step": None, "seconds": seconds}


def _figures(bench: Bench, step: int, start: tuple[Evaluated, ScoredPairs | None]) -> dict[str, Any]:
    """What the kept weights are worth on the held-out pairs, and how long their replies are; `loss_before` is what this
    objective makes of the `start`: what the untrained model showed, and the scores that both are compared with."""
    before, reference = start
    records = read_journal(journal_of(bench.folder))
    validation = next(own["validation"] for own in records if own["step"] == step)
    scored = ScoredPairs.read(rows_file(bench, step))
    found = evaluate_pairs(scored, PairTraits.of(scored, bench.held_out.texts))
    replies = validation.get("generation")
    section = bench.recipe.objective
    assert not isinstance(section, DrawingSection)  # refused when the sweep was read
    loss = float(validation["loss"])
    assert math.isfinite(loss)
    return {
        "step": step,
        "loss": loss,
        "loss_before": mean_loss(section.build(), before.scored, reference),
        "length_balanced_accuracy": found.length_balanced_accuracy.json(),
        "pairwise_accuracy": found.pairwise_accuracy.json(),
        "median_tokens": replies["median_tokens"] if replies else None,
        "seconds": _seconds(bench.folder),
    }


def _seconds(folder: Path) -> float:
    records = read_journal(journal_of(folder)) if journal_of(folder).exists() else []
    return float(records[-1]["seconds"]) if records else 0.0
