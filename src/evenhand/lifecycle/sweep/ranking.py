"""Which trial is best, under the guards, and which of the others cannot be told from it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evenhand.evaluation.difference import difference
from evenhand.evaluation.preference import PairTraits
from evenhand.figure import Figure, figure
from evenhand.lifecycle.sweep.space import Params
from evenhand.model.scores import ScoredPairs


@dataclass(frozen=True, slots=True)
class Entry:
    """A trial that came to an end: its number, folder, values, the stage it belongs to, and its result."""

    number: int
    folder: Path
    params: Params
    stage: str | None
    result: dict[str, Any]

    @property
    def accuracy(self) -> Figure:
        """Length-balanced accuracy on the held-out pairs."""
        own = self.result.get("length_balanced_accuracy") or {"value": None, "n": 0}
        return Figure(**own)

    @property
    def rows(self) -> ScoredPairs:
        """Its scores of the held-out pairs."""
        return ScoredPairs.read(self.folder / "rows" / f"step-{self.result['step']:06d}.parquet")


def objection(entry: Entry, start: Figure, length_drift: float | None) -> str | None:
    """Why a trial cannot win, in words; None where it may. `start` is the untrained model's median reply in tokens."""
    result = entry.result
    if result["guard"]:
        return str(result["guard"])
    if result["pruned"] is not None:
        return f"ended at step {result['pruned']}, below the median of the others there"
    if entry.accuracy.value is None:
        return "no length-balanced accuracy: all held-out answers have the longer one on the same side"
    if result["loss"] >= result["loss_before"]:
        return f"its validation loss, {result['loss']:.4f}, is not below the untrained model's, {result['loss_before']:.4f}"
    tokens = result["median_tokens"]
    return _drift(start, figure(tokens), length_drift) if length_drift is not None and tokens is not None else None


def _drift(before: Figure, now: Figure, limit: float) -> str | None:
    """What is said where a median reply changed by more than `limit` times, whatever the two medians are in their intervals.

    A few replies have no interval, or one that says nothing, and by chance their median is twice or half of another's.
    """
    if before.low is None or before.high is None or now.low is None or now.high is None:
        return None
    if max(now.low / max(before.high, 1.0), before.low / max(now.high, 1.0)) <= limit:
        return None
    words = [own.words(digits=0) for own in (before, now)]
    return f"the median reply went from {words[0]} to {words[1]} tokens, by more than {limit:g} times"


def ranked(entries: list[Entry], start: Figure, length_drift: float | None) -> list[Entry]:
    """Those that may win, by length-balanced accuracy, then by pairwise accuracy, then the earlier one: losses under
    other betas and margins do not compare."""
    fit = [own for own in entries if objection(own, start, length_drift) is None]
    return sorted(
        fit, key=lambda own: (-(own.accuracy.value or 0.0), -own.result["pairwise_accuracy"]["value"], own.number)
    )


def behind(best: Entry, other: Entry, traits: PairTraits) -> Figure:
    """The best trial's length-balanced accuracy minus the other's, paired pair by pair, with its interval."""
    return difference(other.rows, best.rows, traits)["length_balanced_accuracy"]


def told_apart(figure: Figure) -> bool:
    """Whether the interval of a difference leaves out zero."""
    return figure.low is not None and figure.high is not None and not figure.low <= 0.0 <= figure.high
