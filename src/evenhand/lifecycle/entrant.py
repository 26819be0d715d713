"""Who takes part in a comparison: a run, an export, a model or a file of scores, with whatever it has kept of itself."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from evenhand.data.schema import PreferencePair
from evenhand.data.snapshot import content_hash
from evenhand.errors import DataError, RecipeError, UserError
from evenhand.evaluation.comparison import Scored
from evenhand.evaluation.evaluate import Narrator
from evenhand.evaluation.generate import Generation
from evenhand.evaluation.replies import read_replies
from evenhand.lifecycle.appraisal import Asked, Say, appraise, run_recipe
from evenhand.lifecycle.reading import reading_of
from evenhand.lifecycle.start import kept_drift, run_drift
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
        scored, texts = _scores(name, data, telling)
        return Entrant(Scored(called_, scored), texts=texts)
    recipe = run_recipe(run)
    start = run / "rows" / "step-000000.parquet"
    begun = ScoredPairs.read(start) if start.exists() else None
    kept = _kept(run, recipe, begun)
    entrant = Entrant(
        replace(kept, name=called_), _replies(run, "after"), cost_of(run), start=begun, run=run, drift=kept_drift(run)
    )
    if data is None:
        return replace(entrant, texts=_texts(run, recipe, telling[0]))
    pairs, texts = _scores(name, data, telling)
    reference = None if kept.reference is None else _scores(recipe.model.source, data, telling)[0]
    return replace(entrant, scored=Scored(called_, pairs, reference, kept.per_token), texts=texts)


def run_of(path: Path) -> Path | None:
    """The run folder that `path` is, or whose `model` folder it is; None where it is neither."""
    for folder in (path, path.parent if path.name == "model" else path):
        if (folder / "recipe.json").exists() and (folder / "done.json").exists():
            return folder
    return None


def _kept(run: Path, recipe: Recipe, start: ScoredPairs | None) -> Scored:
    """The scores that a run kept at its end, and those of its `start` where that was the reference."""
    step = int(json.loads((run / "done.json").read_text(encoding="utf-8"))["step"])
    rows = run / "rows" / f"step-{step:06d}.parquet"
    if not rows.exists():
        raise DataError(
            f"{run} kept no scores: it had no held-out pairs; compare with --data FILE, which scores its model now."
        )
    reading = reading_of(recipe)
    other = getattr(recipe.objective, "reference_model", None) not in (None, recipe.model.source)
    reference = start if reading.needs_reference and not other else None
    return Scored(str(run), ScoredPairs.read(rows), reference, reading.per_token)


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


def _scores(name: str, data: str, telling: tuple[Say, Narrator]) -> tuple[ScoredPairs, tuple[PreferencePair, ...]]:
    say, narrate = telling
    say(f"scoring {name}")
    found = appraise(Asked(name, data), say, narrate)
    return found.scored, tuple(found.held_out.texts)
