"""One run from recipe to report: read, evaluate, train, evaluate, export; what is done already is not done again."""

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from evenhand.data.ledger import write_refusals
from evenhand.errors import RecipeError
from evenhand.evaluation.report import Evaluated
from evenhand.files import held, write_json
from evenhand.lifecycle.base import weights_hash
from evenhand.lifecycle.bench import Bench, Telling
from evenhand.lifecycle.export import export_model
from evenhand.lifecycle.milestone import evaluated, replies_at, rows_file, write_rewards, write_run_report
from evenhand.lifecycle.practising import exercise_of, practise_recipe
from evenhand.lifecycle.rewarding import reward_identity
from evenhand.lifecycle.starting_model import Keeping, open_reference, reference_identity
from evenhand.lifecycle.validator import Validator, score_over_ranks, start_of
from evenhand.model.forward import Policy
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
from evenhand.training.loop import Hooks, Outcome
from evenhand.training.material import encode_texts, read_texts
from evenhand.training.practice_sections import DrawingSection
from evenhand.training.ranks import Ranks, ranks_joined
from evenhand.training.recipe import Recipe
from evenhand.training.train import Place, make_policy, train_policy

# What decides how text becomes tokens, beside tokenizer and template; the data itself is known by its content.
_FORM_KEYS = ("max_tokens", "max_prompt_tokens", "drop_turns", "template", "compat")


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
        hashes = {
            "model": model_hash,
            "data": texts.hash,
            **reference_identity(recipe, ranks),
            **reward_identity(recipe.rewards),
        }
        identity = identity_of(recipe, hashes, tokenizer)
        if ranks.from_first(_is_done(folder, identity)):
            tell.say(f"{folder} is done already; nothing to do.")
            return folder
        changed = _check_folder(folder, identity, allowed)
        ranks.wait()
        policy = policy_of(recipe, source)  # before anything is written: a model that cannot be opened leaves no folder
        material = encode_texts(texts, tokenizer, recipe.form, folder / "tokens", partial(tell.narrate, "encoding"))
        exercise = exercise_of(recipe, texts, material, tokenizer, tell.say)
        del texts  # they are tokens now, and a large file's texts would stay in memory until the end
        for sentence in (*material.said, *policy.words()):
            tell.say(sentence)
        require_room(folder, sum(weight.numel() for weight in policy.parameters() if weight.requires_grad))
        bench = Bench(recipe, tokenizer, material, policy, folder, identity, tell, allowed, ranks, exercise)
        if ranks.first:
            open_folder(bench, changed)
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
    before = evaluated(bench, 0, None) if material.has_pairs and bench.ranks.first else None
    asks = bench.exercise is not None and recipe.evaluation.prompts > 0
    rewarded_alone = asks and not material.has_pairs and bool(material.held_out)
    if rewarded_alone:
        replies_at(bench, "before", tell.narrate)
    outcome = fit(bench, before)
    if not bench.ranks.first:
        return
    probes = material.validation or material.train
    stops = prompt_encoder(bench.tokenizer, recipe.form)[1]
    worst = export_model(bench.policy, bench.tokenizer, stops, probes, folder / "model")
    tell.say(
        f"{folder / 'model'} was loaded again and gives the same log-probabilities (largest difference {worst:.1e})"
    )
    if rewarded_alone:
        replies_at(bench, "after", tell.narrate)
        tell.say(write_rewards(bench))
    elif before is None:
        tell.say("no held-out pairs were given, so there is no report; add `validation` to see whether it got better.")
    else:
        write_run_report(bench, before, evaluated(bench, outcome.model_step, outcome), outcome)
    weights = weights_hash(Source(recipe.name, folder / "model"))
    write_json(folder / "done.json", {"identity": bench.identity, "step": outcome.model_step, "weights": weights})


def identity_of(recipe: Recipe, hashes: dict[str, str], tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Everything that must be the same for a run to be the same run, by name; `hashes` are of its inputs' content."""
    sections = recipe.resolved()
    model = {key: value for key, value in sections["model"].items() if key != "source"}
    data = {key: sections["data"][key] for key in _FORM_KEYS}
    section = recipe.objective
    objective = section.resolved() if isinstance(section, DrawingSection) else asdict(section.build())
    return {
        **hashes,
        **settings_by_name("model", model),
        **settings_by_name("data", data),
        **settings_by_name("objective", objective),
        **settings_by_name("training", sections["training"]),
        **settings_by_name("evaluation", {key: value for key, value in sections["evaluation"].items() if value != []}),
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "template": template_fingerprint(tokenizer, recipe.form),
    }


def _is_done(folder: Path, identity: dict[str, str]) -> bool:
    done = folder / "done.json"
    return done.exists() and json.loads(done.read_text(encoding="utf-8"))["identity"] == identity


def policy_of(recipe: Recipe, source: Source) -> Policy:
    """The policy as it is before the first step; raises RecipeError for a model that the recipe cannot start from."""
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


def open_folder(bench: Bench, changed: list[str]) -> None:
    """Make the run folder, or clean it of what a kill left; `changed` are allowed names that differ from before."""
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


@dataclass(frozen=True, slots=True)
class Compared:
    """What an objective compares with, and its scores of the held-out pairs; None where it compares with nothing."""

    reference: Reference | None
    held_out: ScoredPairs | None


def open_compared(bench: Bench) -> Compared:
    """Open the reference that the recipe asks for, before training begins."""
    keeping = Keeping(bench.folder, bench.identity, bench.material, bench.ranks)
    reference = open_reference(bench.recipe, bench.policy, bench.tokenizer, keeping)
    if reference is not None:
        bench.tell.say(reference.words())
    return Compared(reference, _held_out_reference(bench, reference))


def fit(
    bench: Bench,
    before: Evaluated | None,
    stop: Callable[[], bool] | None = None,
    compared: Compared | None = None,
) -> Outcome:
    """Train; `before` is what the untrained model showed, `stop` is asked after each step, `compared` is opened here if
    the caller has not."""
    recipe, section = bench.recipe, bench.recipe.objective
    place = Place(bench.folder, recipe.name, recipe.resolved(), bench.identity, bench.allowed)
    if isinstance(section, DrawingSection):
        assert bench.exercise is not None
        given = (bench.exercise, bench.tokenizer, bench.ranks)
        return practise_recipe(bench.policy, recipe, given, place, bench.tell.step)
    objective = section.build()
    examples = examples_of(bench.material.train, objective.traits.examples)
    compared = compared or open_compared(bench)
    validator = Validator(
        tokenizer=bench.tokenizer,
        held_out=bench.held_out,
        objective=objective,
        reference=compared.held_out,
        evaluation=recipe.evaluation,
        guard=recipe.guard,
        # A reward model says nothing, and its rewards may move as a whole: there is no collapse to see.
        start=None
        if before is None or objective.traits.of_rewards
        else start_of(before, recipe.guard, recipe.evaluation),
        rows_file=lambda step: rows_file(bench, step),
        narrate=bench.tell.narrate,
        ranks=bench.ranks,
    )
    hooks = Hooks(validator if bench.material.validation else None, bench.tell.step, stop=stop)
    outcome = train_policy(bench.policy, (examples, objective, recipe.training), place, hooks, compared.reference)
    if outcome.stopped_early and not (stop and stop()):
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
