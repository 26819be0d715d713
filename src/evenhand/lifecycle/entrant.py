"""Who takes part in a comparison: a run, an export, a model or a file of scores, with whatever it has kept of itself."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from evenhand.data.schema import PreferencePair
from evenhand.data.snapshot import content_hash
from evenhand.errors import DataError, ModelError, RecipeError, UserError
from evenhand.evaluation.comparison import Scored
from evenhand.evaluation.evaluate import Narrator
from evenhand.evaluation.generate import Generation
from evenhand.evaluation.replies import read_replies
from evenhand.lifecycle.appraisal import Asked, Say, appraise, recipe_of, run_recipe
from evenhand.lifecycle.base import weights_hash
from evenhand.lifecycle.manifest import NAME, read_manifest
from evenhand.lifecycle.reading import reading_of
from evenhand.lifecycle.start import kept_drift, run_drift
from evenhand.model.load import base_source, find_source
from evenhand.model.scores import ScoredPairs
from evenhand.training.journal import journal_of, read_journal
from evenhand.training.material import read_texts
from evenhand.training.recipe import Recipe

_TABLE = ".parquet"


@dataclass(frozen=True, slots=True)
class Cost:
    """What training took, from the run's journal: pairs a second over all of it, seconds, and peak memory."""

    objective: str
    steps: int
    pairs_per_second: float
    seconds: float
    memory_peak_bytes: int

    def json(self) -> dict[str, Any]:
        """The shape in a comparison."""
        return {
            "objective": self.objective,
            "steps": self.steps,
            "pairs_per_second": self.pairs_per_second,
            "seconds": self.seconds,
            "memory_peak_bytes": self.memory_peak_bytes,
        }


@dataclass(frozen=True, slots=True)
class Entrant:
    """A model's scores, and its replies and cost where a run kept them; `texts` are the pairs, where they are known.

    `start` are a run's scores before its first step, `drift` how far it has moved since, where that was measured;
    `production` is what became of its drafts, where a feedback store tells."""

    scored: Scored
    replies: Generation | None = None
    cost: Cost | None = None
    texts: tuple[PreferencePair, ...] = ()
    start: ScoredPairs | None = None
    run: Path | None = None
    production: Mapping[str, Any] | None = None
    drift: Mapping[str, Any] | None = None

    def with_drift(self, say: Say, narrate: Narrator) -> "Entrant":
        """With its drift measured now where it is a run that has not kept it."""
        if self.run is None or self.drift is not None or self.replies is None:
            return self
        return replace(self, drift=run_drift(self.run, say, narrate))

    def at_start(self) -> "Entrant":
        """The same run before its first step, with the replies that it gave then; needs the scores that it kept of itself."""
        assert self.start is not None
        replies = None if self.run is None else _replies(self.run, "before")
        return Entrant(Scored(f"start of {self.name}", self.start), replies, texts=self.texts)

    def selected_among(self, trials: int) -> "Entrant":
        """With the caveat that its settings were chosen on the pairs that it is compared on, where there was a choice."""
        if trials < 2:
            return self
        caveat = (
            f"the settings of {self.name} are the best of {trials} that were tried on these same pairs, so the difference "
            f"flatters {self.name} and only other pairs can tell"
        )
        earlier = f"{self.scored.caveat}; " if self.scored.caveat else ""
        return replace(self, scored=replace(self.scored, caveat=earlier + caveat))

    @property
    def name(self) -> str:
        """How the comparison calls it."""
        return self.scored.name


def entrants(names: Sequence[str], data: str | None, say: Say, narrate: Narrator, fewest: int = 2) -> list[Entrant]:
    """Resolve every name; with `data`, models are scored on it, without it runs bring the scores that they kept.

    Raises UserError for fewer than `fewest`, for a model without scores where there is no data, and what reading raises.
    """
    if len(names) < fewest:
        raise UserError("a comparison needs two models: evenhand compare A B.")
    calling = called(names)
    return [_entrant(name, calling[name], data, (say, narrate)) for name in dict.fromkeys(names)]


def called(names: Sequence[str]) -> dict[str, str]:
    """What each is called: its last part, or all of it where two would be called the same.

    >>> called(["runs/simpo", "runs/dpo/model"])
    {'runs/simpo': 'simpo', 'runs/dpo/model': 'dpo'}
    """
    if len(set(names)) < len(names):
        raise UserError(f"{max(names, key=list(names).count)} is named twice; a comparison needs different models.")
    short = {name: _short(name) for name in names}
    return short if len(set(short.values())) == len(names) else {name: name for name in names}


def _short(name: str) -> str:
    path = Path(name)
    if path.suffix == _TABLE:
        return path.stem
    return (path.parent.name if path.name == "model" else path.name) or name


def _entrant(name: str, called_: str, data: str | None, telling: tuple[Say, Narrator]) -> Entrant:
    path = Path(name)
    if path.suffix == _TABLE:
        return Entrant(Scored(called_, ScoredPairs.read(path)))
    run = run_of(path)
    if run is None:
        if data is None:
            raise UserError(
                f"{name} is no run with kept scores; add --data FILE to score it now, or give a Parquet file of "
                "`evenhand score`."
            )
        scored, texts = _scored_now((name, called_), recipe_of(find_source(name)), data, telling)
        return Entrant(scored, texts=texts)
    recipe = run_recipe(run)
    start = run / "rows" / "step-000000.parquet"
    begun = ScoredPairs.read(start) if start.exists() else None
    if data is None:
        scored, texts = _kept((run, called_), recipe, begun), _texts(run, recipe, telling[0])
    else:
        scored, texts = _scored_now((name, called_), recipe, data, telling)
    drift, replies = kept_drift(run), _replies(run, "after")
    found = Entrant(scored, replies, cost_of(run), texts, start=begun, run=run, drift=drift)
    trials = _trials_beside(run)
    if trials and data is not None:
        chosen_by = _texts(run, recipe, telling[0])
        trials = 0 if content_hash((), texts) != content_hash((), chosen_by) else trials
    return found.selected_among(trials)


def _trials_beside(run: Path) -> int:
    """How many trials a sweep compared on the run's held-out pairs, where the run is one of them."""
    told = run.parent.parent / "sweep.json"
    if run.parent.name != "trials" or not told.exists():
        return 0
    return len(json.loads(told.read_text(encoding="utf-8"))["trials"])


def run_of(path: Path) -> Path | None:
    """The run folder that `path` is, or whose `model` folder it is; None where it is neither."""
    for folder in (path, path.parent if path.name == "model" else path):
        if (folder / "recipe.json").exists() and (folder / "done.json").exists():
            return folder
    return None


def _kept(called_run: tuple[Path, str], recipe: Recipe, start: ScoredPairs | None) -> Scored:
    """The scores that a run kept at its end, and those of its `start` where that was the reference."""
    run, called_ = called_run
    step = int(json.loads((run / "done.json").read_text(encoding="utf-8"))["step"])
    rows = run / "rows" / f"step-{step:06d}.parquet"
    if not rows.exists():
        raise DataError(
            f"{run} kept no scores: it had no held-out pairs; compare with --data FILE, which scores its model now."
        )
    reading, pairs = reading_of(recipe), ScoredPairs.read(rows)
    if not reading.needs_reference:
        return Scored(called_, pairs)
    if start is None or _other_reference(recipe) is not None:
        return Scored(
            called_, pairs, caveat=_unread(called_, "the run kept no scores of it; --data FILE scores it now")
        )
    return Scored(called_, pairs, start, reading.per_token)


def _scored_now(
    named: tuple[str, str], recipe: Recipe | None, data: str, telling: tuple[Say, Narrator]
) -> tuple[Scored, tuple[PreferencePair, ...]]:
    """The scores of a model on `data`, and of its reference in the same form where its training had one."""
    name, called_ = named
    pairs, texts = _scores(Asked(name, data), telling)
    reading = reading_of(recipe)
    if recipe is None or not reading.needs_reference:
        return Scored(called_, pairs), texts
    try:
        reference = _scores(Asked(_reference(name, recipe), data, form=recipe.form), telling)[0]
    except ModelError as error:
        return Scored(called_, pairs, caveat=_unread(called_, str(error).rstrip("."))), texts
    return Scored(called_, pairs, reference, reading.per_token), texts


def _reference(name: str, recipe: Recipe) -> str:
    """The folder of the model that training was held against; raises ModelError where an export's is not here."""
    folder = find_source(name).folder
    if not (folder / NAME).exists():
        return _other_reference(recipe) or recipe.model.source
    if (other := _other_reference(recipe)) is not None:
        raise ModelError(f"an export does not say which weights {other} has")
    stated = read_manifest(folder)["base"]
    base = base_source(folder, stated["name"])
    if (found := weights_hash(base)) != stated["sha256"]:
        raise ModelError(
            f"the weights of {base.name} hash to {found[:16]}, and the manifest says {stated['sha256'][:16]}"
        )
    return str(base.folder)


def _other_reference(recipe: Recipe) -> str | None:
    """The reference where it is not the model that training started from."""
    other: str | None = getattr(recipe.objective, "reference_model", None)
    return None if other == recipe.model.source else other


def _unread(called_: str, why: str) -> str:
    return f"{called_} was trained against a reference, and the reward over it was not read ({why})"


def _replies(run: Path, when: Literal["before", "after"]) -> Generation | None:
    file = run / "rows" / f"replies-{when}.json"
    return read_replies(file) if file.exists() else None


def cost_of(run: Path) -> Cost | None:
    """What training the run took; None where its journal has no step."""
    steps = [record for record in read_journal(journal_of(run)) if "pairs_per_second" in record]
    if not steps:
        return None
    return Cost(
        run_recipe(run).objective.name,
        int(steps[-1]["step"]),
        float(steps[-1]["pairs_per_second"]),
        float(steps[-1]["seconds"]),
        max(int(record["memory_peak_bytes"]) for record in steps),
    )


def _texts(run: Path, recipe: Recipe, say: Say) -> tuple[PreferencePair, ...]:
    """The run's held-out pairs, nothing where its data is not what it was: then no families and examples are shown."""
    stated = json.loads((run / "identity.json").read_text(encoding="utf-8"))["data"]
    try:
        texts = read_texts(recipe.data)
    except (DataError, RecipeError, OSError) as error:
        say(f"{run}: its held-out pairs cannot be read, so every pair counts as a family of its own ({error})")
        return ()
    if content_hash(texts.train, texts.validation) != stated:
        say(f"{run}: its data has changed since, so every pair counts as a family of its own")
        return ()
    return texts.validation


def _scores(asked: Asked, telling: tuple[Say, Narrator]) -> tuple[ScoredPairs, tuple[PreferencePair, ...]]:
    say, narrate = telling
    say(f"scoring {asked.model}")
    found = appraise(asked, say, narrate)
    return found.scored, tuple(found.held_out.texts)
