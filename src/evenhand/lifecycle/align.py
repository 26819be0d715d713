"""One run from recipe to report: read, evaluate, train, evaluate, export; what is done already is not done again."""

import json
import math
import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import PreTrainedTokenizerBase

from evenhand.data.ledger import write_refusals
from evenhand.errors import RecipeError
from evenhand.evaluation.evaluate import Asking, HeldOut, Narrator, evaluate_policy, evaluation_of
from evenhand.evaluation.preference import PairTraits, evaluate_pairs
from evenhand.evaluation.replies import read_replies, write_replies
from evenhand.evaluation.report import DataFacts, Evaluated, Report, write_report
from evenhand.files import canonical_json, held, sha256, sha256_file, write_json
from evenhand.lifecycle.export import export_model
from evenhand.model.forward import Policy, causal
from evenhand.model.load import Source, choose_device, choose_dtype, find_source, load_model, load_tokenizer
from evenhand.model.modes import form_fingerprint, prompt_encoder
from evenhand.model.score import score_pairs
from evenhand.model.scores import PairScores, ScoredPairs
from evenhand.objectives.simpo import SimPO
from evenhand.training.checkpoint import require_room
from evenhand.training.identity import refuse_other_run, training_hash
from evenhand.training.journal import read_journal
from evenhand.training.loop import Hooks, Outcome, Validation
from evenhand.training.material import Material, encode_texts, read_texts
from evenhand.training.recipe import Recipe
from evenhand.training.train import Place, make_policy, train_policy


@dataclass(frozen=True, slots=True)
class Telling:
    """Who is told what: sentences, progress of a stage, and each step's record with the number of steps."""

    say: Callable[[str], None]
    narrate: Narrator
    step: Callable[[dict[str, Any], int], None]


@dataclass(frozen=True, slots=True)
class Bench:
    """A run's parts, loaded: recipe, tokenizer, material, policy, and where it writes."""

    recipe: Recipe
    tokenizer: PreTrainedTokenizerBase
    material: Material
    policy: Policy
    folder: Path
    identity: dict[str, str]
    tell: Telling

    @property
    def held_out(self) -> HeldOut:
        """The validation side."""
        return HeldOut(self.material.validation, self.material.held_out, self.recipe.form)


def align(recipe: Recipe, folder: Path, tell: Telling) -> Path:
    """Run `recipe` in `folder` and return the folder; a second call goes on from what is there, or finds it done.

    Raises RecipeError where the folder holds another run, and what reading, training and exporting raise.
    """
    source = find_source(recipe.model.source)
    texts = read_texts(recipe.data)
    tokenizer = load_tokenizer(source)
    identity = identity_of(recipe, source, texts.hash, tokenizer)
    if _is_done(folder, identity):
        tell.say(f"{folder} is done already; nothing to do.")
        return folder
    material = encode_texts(texts, tokenizer, recipe.form)
    for sentence in material.said:
        tell.say(sentence)
    policy = _policy(recipe, source)
    for sentence in policy.words():
        tell.say(sentence)
    require_room(folder, sum(weight.numel() for weight in policy.parameters() if weight.requires_grad))
    _open_folder(folder, recipe, material, identity)
    with held(folder):
        _run(Bench(recipe, tokenizer, material, policy, folder, identity, tell))
    return folder


def _run(bench: Bench) -> None:
    """Evaluate, train, export, evaluate, report."""
    recipe, material, folder, tell = bench.recipe, bench.material, bench.folder, bench.tell
    before = _evaluated(bench, 0, None) if material.validation else None
    outcome = _train(bench)
    probes = material.validation or material.train
    stops = prompt_encoder(bench.tokenizer, recipe.form)[1]
    worst = export_model(bench.policy, bench.tokenizer, stops, probes, folder / "model")
    tell.say(
        f"{folder / 'model'} was loaded again and gives the same log-probabilities (largest difference {worst:.1e})"
    )
    if before is None:
        tell.say("no held-out pairs were given, so there is no report; add `validation` to see whether it got better.")
    else:
        _report(bench, before, _evaluated(bench, outcome.model_step, outcome), outcome)
    write_json(folder / "done.json", {"identity": bench.identity, "step": outcome.model_step})


def identity_of(recipe: Recipe, source: Source, data_hash: str, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Everything that must be the same for a run to be the same run, by name."""
    sections = recipe.resolved()
    return {
        "model": _model_hash(source),
        "model settings": sha256(canonical_json(sections["model"])),
        "objective": sha256(canonical_json(asdict(recipe.objective.build()))),
        "training settings": training_hash(recipe.training),
        "evaluation settings": sha256(canonical_json(sections["evaluation"])),
        "data": data_hash,
        "tokenizer or template": form_fingerprint(tokenizer, recipe.form),
    }


def _model_hash(source: Source) -> str:
    files = sorted([*source.folder.glob("*.safetensors"), source.folder / "config.json"])
    parts = [sha256_file(file) for file in files if file.exists()]
    return sha256(canonical_json([*parts, _model_hash(source.base) if source.base else None]))


def _is_done(folder: Path, identity: dict[str, str]) -> bool:
    done = folder / "done.json"
    return done.exists() and json.loads(done.read_text(encoding="utf-8"))["identity"] == identity


def _policy(recipe: Recipe, source: Source) -> Policy:
    device = choose_device()
    dtype = choose_dtype(recipe.model.dtype, device)
    if source.base is not None:
        raise RecipeError(
            f"`model.source`: {source.name} is an adapter; merge it into its base first, or start from the base."
        )
    # Full fine-tuning keeps fp32 masters of whatever the model computes in.
    model = load_model(source, dtype, device, recipe.model.load_in_4bit)
    return make_policy(model, recipe.adapter, recipe.training)


def _open_folder(folder: Path, recipe: Recipe, material: Material, identity: dict[str, str]) -> None:
    identity_file = folder / "identity.json"  # the first file of a run
    if identity_file.exists():
        refuse_other_run(folder, json.loads(identity_file.read_text(encoding="utf-8")), identity)
    elif folder.exists() and not folder.is_dir():
        raise RecipeError(f"{folder} is a file; choose another --out.")
    elif folder.exists() and any(".staging-" not in file.name for file in folder.iterdir()):
        raise RecipeError(f"{folder} holds other files; choose another --out.")
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(".*.staging-*"):  # what a kill left of a file half written
        stale.unlink() if stale.is_file() else shutil.rmtree(stale)
    write_json(identity_file, identity)
    write_json(folder / "recipe.json", recipe.resolved())
    write_refusals(folder / "refused.jsonl", material.refusals)


def _train(bench: Bench) -> Outcome:
    recipe, objective = bench.recipe, bench.recipe.objective.build()
    hooks = Hooks(_validator(bench, objective) if bench.material.validation else None, bench.tell.step)
    place = Place(bench.folder, recipe.name, recipe.resolved(), bench.identity)
    outcome = train_policy(bench.policy, (bench.material.train, objective, recipe.training), place, hooks)
    if outcome.stopped_early:
        bench.tell.say(f"validation loss stopped falling: ended after step {outcome.steps}")
    if outcome.model_step != outcome.steps:
        bench.tell.say(f"the lowest validation loss was at step {outcome.model_step}, whose weights are kept")
    return outcome


def _validator(bench: Bench, objective: SimPO) -> Callable[[Policy, int], Validation]:
    traits_of = bench.material.held_out

    def validate(policy: Policy, step: int) -> Validation:
        scored = score_pairs(policy, bench.material.validation, report=_stage(bench, f"validating after step {step}"))
        if not np.isfinite(scored.mean_gap_B).all():
            return Validation(math.nan, {})  # which stops the run, before any row is kept
        scored.write(_rows_file(bench, step))
        found = evaluate_pairs(scored, PairTraits.of(scored, traits_of))
        return Validation(mean_loss(objective, scored), found.json())

    return validate


def mean_loss(objective: SimPO, scored: ScoredPairs) -> float:
    """The objective's mean over scored pairs, in float64."""
    columns = (scored.chosen_sum_B, scored.rejected_sum_B, scored.chosen_tokens_B, scored.rejected_tokens_B)
    return float(objective(PairScores(*(torch.from_numpy(np.ascontiguousarray(c)).double() for c in columns))).mean())


def _stage(bench: Bench, what: str) -> Callable[[int, int], None]:
    return lambda done, total: bench.tell.narrate(what, done, total)


def _rows_file(bench: Bench, step: int) -> Path:
    return bench.folder / "rows" / f"step-{step:06d}.parquet"


def _evaluated(bench: Bench, step: int, outcome: Outcome | None) -> Evaluated:
    """Scores and replies at `step`, from the run's files where they are there already."""
    word = "after" if outcome else "before"

    def narrate(what: str, done: int, total: int) -> None:
        bench.tell.narrate(f"{what} {word} training", done, total)

    settings = bench.recipe.evaluation
    asking = Asking(settings.prompts, settings.max_new_tokens, narrate)
    rows, replies = _rows_file(bench, step), bench.folder / "rows" / f"replies-{word}.json"
    if rows.exists() and replies.exists():
        scored = ScoredPairs.read(rows)
        return Evaluated.of(scored, PairTraits.of(scored, bench.held_out.texts), read_replies(replies))
    if rows.exists():
        found = evaluation_of(bench.policy, bench.tokenizer, bench.held_out, (ScoredPairs.read(rows), asking))
    else:
        found = evaluate_policy(bench.policy, bench.tokenizer, bench.held_out, asking)
        found.scored.write(_rows_file(bench, step))
    if found.generation:
        write_replies(replies, found.generation)
    return found


def _report(bench: Bench, before: Evaluated, after: Evaluated, outcome: Outcome) -> None:
    material = bench.material
    report = Report(
        name=bench.recipe.name,
        before=before,
        after=after,
        data=DataFacts(material.hash, material.rows_in, material.rows_used, material.refused),
        recipe=bench.recipe.resolved(),
        journal=read_journal(bench.folder / "journal.jsonl"),
        machine=machine(bench.policy) | {"step kept": _step_kept(bench, outcome)},
        traits=PairTraits.of(before.scored, material.held_out),
    )
    write_report(bench.folder, report)


def _step_kept(bench: Bench, outcome: Outcome) -> str:
    """Which step's weights are reported, and how they were chosen: a choice made on the same pairs flatters a little."""
    validated = sum("validation" in record for record in read_journal(bench.folder / "journal.jsonl"))
    how = f", the lowest loss of {validated} validations on these same pairs" if validated > 1 else ""
    return f"{outcome.model_step} of {outcome.steps}{how}"


def machine(policy: Policy) -> dict[str, str]:
    """What the run ran on, for the report."""
    gpu = torch.cuda.get_device_name() if policy.device.type == "cuda" else None
    return {
        "device": gpu or f"CPU, {torch.get_num_threads()} threads, {platform.machine()}",
        "dtype": str(next(policy.model.parameters()).dtype).removeprefix("torch."),
        "engine": "padded rows" if policy.padded_because else "forest",
        "architecture": type(causal(policy.model)).__name__,
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
    }
