"""One run from recipe to report: read, evaluate, train, evaluate, export; what is done already is not done again."""

import json
import platform
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedTokenizerBase

from evenhand.data.ledger import write_refusals
from evenhand.errors import RecipeError
from evenhand.evaluation.evaluate import Asking, HeldOut, Narrator, evaluate_policy, evaluation_of
from evenhand.evaluation.preference import PairTraits
from evenhand.evaluation.replies import read_replies, write_replies
from evenhand.evaluation.report import DataFacts, Evaluated, Report, write_report
from evenhand.files import held, write_json
from evenhand.lifecycle.base import weights_hash
from evenhand.lifecycle.export import export_model
from evenhand.lifecycle.starting_model import Keeping, open_reference, reference_identity
from evenhand.lifecycle.validator import Validator, score_over_ranks, start_of
from evenhand.model.forward import Policy, causal
from evenhand.model.load import (
    Source,
    choose_device,
    choose_dtype,
    find_source,
    is_reward_model,
    load_model,
    load_tokenizer,
)
from evenhand.model.modes import prompt_encoder, template_fingerprint, tokenizer_fingerprint
from evenhand.model.reference import Reference
from evenhand.model.scores import ScoredPairs
from evenhand.training.checkpoint import require_room
from evenhand.training.examples import examples_of
from evenhand.training.identity import refuse_other_run, settings_by_name
from evenhand.training.journal import journal_of, read_journal
from evenhand.training.loop import Hooks, Outcome
from evenhand.training.material import Material, encode_texts, read_texts
from evenhand.training.ranks import Ranks, ranks_joined
from evenhand.training.recipe import Recipe
from evenhand.training.train import Place, make_policy, train_policy

# What decides how text becomes tokens, beside tokenizer and template; the data itself is known by its content.
_FORM_KEYS = ("max_tokens", "max_prompt_tokens", "drop_turns", "template", "compat")


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
    allowed: tuple[str, ...]
    ranks: Ranks

    @property
    def held_out(self) -> HeldOut:
        """The validation side."""
        return HeldOut(self.material.validation, self.material.held_out, self.recipe.form)


def align(recipe: Recipe, folder: Path, tell: Telling, allowed: tuple[str, ...] = ()) -> Path:
    """Run `recipe` in `folder` and return the folder; a second call goes on from what is there, or finds it done.

    Under `torchrun` or `accelerate launch` every rank calls it, and the first one writes. Raises RecipeError where the
    folder holds another run in more than `allowed` names, and what reading, training and exporting raise.
    """
    with ranks_joined() as ranks:
        source = _source(recipe, ranks)
        texts = read_texts(recipe.data, recipe.objective.build().traits.examples)
        tokenizer = load_tokenizer(source)
        model_hash = ranks.from_first(weights_hash(source) if ranks.first else None)
        hashes = {"model": model_hash, "data": texts.hash, **reference_identity(recipe, ranks)}
        identity = identity_of(recipe, hashes, tokenizer)
        if ranks.from_first(_is_done(folder, identity)):
            tell.say(f"{folder} is done already; nothing to do.")
            return folder
        changed = _check_folder(folder, identity, allowed)
        ranks.wait()
        policy = _policy(recipe, source)  # before anything is written: a model that cannot be opened leaves no folder
        material = encode_texts(texts, tokenizer, recipe.form, folder / "tokens", partial(tell.narrate, "encoding"))
        del texts  # they are tokens now, and a large file's texts would stay in memory until the end
        for sentence in (*material.said, *policy.words()):
            tell.say(sentence)
        require_room(folder, sum(weight.numel() for weight in policy.parameters() if weight.requires_grad))
        bench = Bench(recipe, tokenizer, material, policy, folder, identity, tell, allowed, ranks)
        if ranks.first:
            _open_folder(bench, changed)
        with held(folder) if ranks.first else nullcontext():
            _run(bench)
            ranks.wait()
    return folder


def _source(recipe: Recipe, ranks: Ranks) -> Source:
    """The model's files; the first rank may have to convert or fetch them, and then the others find them."""
    if ranks.first:
        source = find_source(recipe.model.source)
        ranks.wait()
        return source
    ranks.wait()
    return find_source(recipe.model.source)


def _run(bench: Bench) -> None:
    """Evaluate, train, export, evaluate, report; all but training is the first rank's."""
    recipe, material, folder, tell = bench.recipe, bench.material, bench.folder, bench.tell
    before = _evaluated(bench, 0, None) if material.has_pairs and bench.ranks.first else None
    outcome = _train(bench, before)
    if not bench.ranks.first:
        return
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


def identity_of(recipe: Recipe, hashes: dict[str, str], tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Everything that must be the same for a run to be the same run, by name; `hashes` are of its inputs' content."""
    sections = recipe.resolved()
    model = {key: value for key, value in sections["model"].items() if key != "source"}
    data = {key: sections["data"][key] for key in _FORM_KEYS}
    return {
        **hashes,
        **settings_by_name("model", model),
        **settings_by_name("data", data),
        **settings_by_name("objective", asdict(recipe.objective.build())),
        **settings_by_name("training", sections["training"]),
        **settings_by_name("evaluation", sections["evaluation"]),
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "template": template_fingerprint(tokenizer, recipe.form),
    }


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
    torch.manual_seed(recipe.training.seed)  # a reward head that the folder has not is drawn
    # Full fine-tuning keeps fp32 masters of whatever the model computes in.
    rewards = recipe.objective.build().traits.of_rewards
    if not rewards and is_reward_model(source):
        raise RecipeError(
            f"`model.source`: {source.name} is a reward model, and {recipe.objective.name} trains one that answers."
        )
    model = load_model(source, dtype, device, recipe.model.load_in_4bit, rewards)
    return make_policy(model, recipe.adapter, recipe.training)


def _check_folder(folder: Path, identity: dict[str, str], allowed: tuple[str, ...]) -> list[str]:
    """The allowed names in which the run that `folder` holds differs; raises RecipeError where it cannot go on there."""
    identity_file = folder / "identity.json"  # the first file of a run
    if identity_file.exists():
        before = json.loads(identity_file.read_text(encoding="utf-8"))
        return refuse_other_run(folder, before, identity, allowed)
    if folder.exists() and not folder.is_dir():
        raise RecipeError(f"{folder} is a file; choose another --out.")
    if folder.exists() and any(".staging-" not in file.name for file in folder.iterdir() if file.name != "tokens"):
        raise RecipeError(f"{folder} holds other files; choose another --out.")
    return []


def _open_folder(bench: Bench, changed: list[str]) -> None:
    folder = bench.folder
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(".*.staging-*"):  # what a kill left of a file half written
        stale.unlink() if stale.is_file() else shutil.rmtree(stale)
    if changed:
        bench.tell.say(f"going on with another {', '.join(changed)}, as allowed")
        for outcome in ("done.json", "rows/replies-after.json"):  # of the run as it was
            (folder / outcome).unlink(missing_ok=True)
    write_json(folder / "identity.json", bench.identity)
    write_json(folder / "recipe.json", bench.recipe.resolved())
    write_refusals(folder / "refused.jsonl", bench.material.refusals)


def _train(bench: Bench, before: Evaluated | None) -> Outcome:
    recipe, objective = bench.recipe, bench.recipe.objective.build()
    examples = examples_of(bench.material.train, objective.traits.examples)
    reference = open_reference(
        recipe, bench.policy, bench.tokenizer, Keeping(bench.folder, bench.identity, bench.material, bench.ranks)
    )
    if reference is not None:
        bench.tell.say(reference.words())
    validator = Validator(
        tokenizer=bench.tokenizer,
        held_out=bench.held_out,
        objective=objective,
        reference=_held_out_reference(bench, reference),
        evaluation=recipe.evaluation,
        guard=recipe.guard,
        # A reward model says nothing, and its rewards may move as a whole: there is no collapse to see.
        start=None
        if before is None or objective.traits.of_rewards
        else start_of(before, recipe.guard, recipe.evaluation),
        rows_file=lambda step: _rows_file(bench, step),
        narrate=bench.tell.narrate,
        ranks=bench.ranks,
    )
    hooks = Hooks(validator if bench.material.validation else None, bench.tell.step)
    place = Place(bench.folder, recipe.name, recipe.resolved(), bench.identity, bench.allowed)
    outcome = train_policy(bench.policy, (examples, objective, recipe.training), place, hooks, reference)
    if outcome.stopped_early:
        bench.tell.say(f"validation loss stopped falling: ended after step {outcome.steps}")
    if outcome.model_step != outcome.steps:
        bench.tell.say(f"the lowest validation loss was at step {outcome.model_step}, whose weights are kept")
    return outcome


def _held_out_reference(bench: Bench, reference: Reference | None) -> ScoredPairs | None:
    """The starting model's scores of the held-out pairs."""
    if reference is None or not bench.material.validation:
        return None
    return reference.scored(
        bench.material.validation,
        lambda policy, pairs: score_over_ranks(
            policy, pairs, bench.ranks, partial(bench.tell.narrate, "scoring by the reference")
        ),
    )


def _rows_file(bench: Bench, step: int) -> Path:
    return bench.folder / "rows" / f"step-{step:06d}.parquet"


def _evaluated(bench: Bench, step: int, outcome: Outcome | None) -> Evaluated:
    """Scores and replies at `step`, from the run's files where they are there already."""
    word = "after" if outcome else "before"

    def narrate(what: str, done: int, total: int) -> None:
        bench.tell.narrate(f"{what} {word} training", done, total)

    settings = bench.recipe.evaluation
    asking = Asking(0 if bench.policy.gives_rewards else settings.prompts, settings.max_new_tokens, narrate)
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
        journal=read_journal(journal_of(bench.folder)),
        machine=machine(bench.policy) | {"step kept": _step_kept(bench, outcome)},
        traits=PairTraits.of(before.scored, material.held_out),
    )
    write_report(bench.folder, report)


def _step_kept(bench: Bench, outcome: Outcome) -> str:
    """Which step's weights are reported, and how they were chosen: a choice made on the same pairs flatters a little."""
    validated = sum("validation" in record for record in read_journal(journal_of(bench.folder)))
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
