"""Two models on the same held-out pairs: who is better, by which reading, in which slice, and where they disagree.

A model that was trained against a reference is read twice: by mean log-probability, which is what its replies are
sampled from, and by the implicit reward that its training widened. Shapes: B pairs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from evenhand.evaluation.contrast import Contrast, contrast
from evenhand.evaluation.difference import difference, difference_by_slice, families_of, matched, moved
from evenhand.evaluation.interval import Floats, Integers, Sample, share
from evenhand.evaluation.preference import PairTraits, wins
from evenhand.evaluation.verdict import Word, percent, points
from evenhand.figure import Figure
from evenhand.model.scores import ScoredPairs

MEAN, OWN = "mean_log_probability", "own_reward"
READINGS = {MEAN: "mean log-probability", OWN: "the reward that each was trained on"}


@dataclass(frozen=True, slots=True)
class Scored:
    """A model's scores, and those of its reference where its training had one; `per_token` is the reward's form.

    `caveat` is a clause that says why no verdict may rest on them, None where one may.
    """

    name: str
    pairs: ScoredPairs
    reference: ScoredPairs | None = None
    per_token: bool = False
    caveat: str | None = None

    def on(self, yardstick: ScoredPairs) -> "Scored":
        """The same in the order of `yardstick`; raises DataError where it is not of the same pairs."""
        reference = None if self.reference is None else matched(yardstick, self.reference)
        return replace(self, pairs=matched(yardstick, self.pairs), reference=reference)

    @property
    def own_gap_B(self) -> Floats:
        """Chosen minus rejected in what training widened: the implicit reward over beta, else the mean gap."""
        if self.reference is None:
            return self.pairs.mean_gap_B
        return self.pairs.gap_B(self.per_token) - self.reference.gap_B(self.per_token)

    def accuracies(self, family_B: Integers) -> dict[str, Figure]:
        """Pairwise accuracy by each reading that the model has."""
        found = {MEAN: share(Sample(wins(self.pairs.mean_gap_B), family_B))}
        if self.reference is not None:
            found[OWN] = share(Sample(wins(self.own_gap_B), family_B))
        return found


@dataclass(frozen=True, slots=True)
class Comparison:
    """Candidate minus baseline; `differences` also of length-balanced accuracy and by sum, `slices` of accuracy."""

    baseline: Scored
    candidate: Scored
    family_B: Integers
    contrasts: Mapping[str, Contrast]
    differences: Mapping[str, Figure]
    slices: Mapping[str, Mapping[str, Figure]] = field(default_factory=dict)

    @property
    def pairs(self) -> int:
        """On how many pairs."""
        return len(self.baseline.pairs)

    @property
    def withheld(self) -> str | None:
        """Why there is no verdict, whatever the numbers are; None where there is one."""
        return "; ".join(own.caveat for own in (self.baseline, self.candidate) if own.caveat) or None

    @property
    def word(self) -> Word:
        """`better` or `worse` only where every reading says so, and where no verdict is withheld."""
        words = {found.word for found in self.contrasts.values()}
        return words.pop() if len(words) == 1 and not self.withheld else "undecided"

    @property
    def is_same(self) -> bool:
        """Whether both gave every pair the same scores, bit for bit."""
        one, two = self.baseline.pairs, self.candidate.pairs
        sums = ((one.chosen_sum_B, two.chosen_sum_B), (one.rejected_sum_B, two.rejected_sum_B))
        return all(np.array_equal(mine, other) for mine, other in sums)

    @property
    def sentence(self) -> str:
        """The verdict in words, with its numbers."""
        if self.is_same:
            return f"{self.candidate.name} and {self.baseline.name} give all {self.pairs:,} pairs the same scores."
        readings = [self._reading_words(name) for name in self.contrasts]
        return f"{self._opening()} On {self.pairs:,} held-out pairs {'; '.join(readings)}.{self._outlook()}"

    def json(self) -> dict[str, Any]:
        """The shape of `evenhand compare --json`, as far as it follows from scores."""
        main = self.contrasts[MEAN]
        return {
            "baseline": self.baseline.name,
            "candidate": self.candidate.name,
            "pairs": self.pairs,
            "difference": main.difference.json(),
            "verdict": self.word,
            "withheld": self.withheld,
            "sentence": self.sentence,
            "detectable": main.detectable,
            "more_pairs": self._more_pairs(),
            "accuracy": {
                side: {name: figure.json() for name, figure in scored.accuracies(self.family_B).items()}
                for side, scored in (("baseline", self.baseline), ("candidate", self.candidate))
            },
            "readings": {name: found.json() for name, found in self.contrasts.items()},
            "differences": {name: figure.json() for name, figure in self.differences.items()},
            "slices": {
                name: {value: figure.json() for value, figure in by_value.items()}
                for name, by_value in self.slices.items()
            },
        }

    def _opening(self) -> str:
        one, other = self.candidate.name, self.baseline.name
        if self.withheld:
            return f"There is no verdict on {one} against {other}: {self.withheld}."
        match self.word:
            case "better" | "worse":
                return f"{one} is {self.word} than {other}."
        if len({found.word for found in self.contrasts.values()}) > 1:
            return f"{one} and {other} cannot be told apart: the two readings do not agree."
        return f"{one} and {other} cannot be told apart."

    def _reading_words(self, name: str) -> str:
        rivals = self.baseline.accuracies(self.family_B), self.candidate.accuracies(self.family_B)
        then, now = (figures.get(name, figures[MEAN]).value for figures in rivals)
        assert then is not None
        assert now is not None
        change = self.contrasts[name].difference
        assert change.value is not None
        interval = (
            f", 95 % interval {points(change.low)} to {points(change.high)}"
            if change.low is not None and change.high is not None
            else ""
        )
        by = f"by {READINGS[name]} " if len(self.contrasts) > 1 else ""
        return f"{by}accuracy is {percent(now)} against {percent(then)} ({points(change.value)} points{interval})"

    def _more_pairs(self) -> int | None:
        """The most that any reading needs that is still undecided."""
        undecided = [found for found in self.contrasts.values() if found.word == "undecided"]
        needed = [found.more_pairs for found in undecided if found.more_pairs is not None]
        return max(needed) if needed and len(needed) == len(undecided) else None

    def _outlook(self) -> str:
        open_ones = [found for found in self.contrasts.values() if found.word == "undecided"]
        if self.word != "undecided" or self.withheld or not open_ones:
            return ""
        widest = max(open_ones, key=lambda found: found.detectable or 0.0)
        if widest.detectable is None:
            return ""
        able = f" So many pairs show a true difference of {points(widest.detectable).lstrip('+')} points in four cases of five"
        more = self._more_pairs()
        if more:
            return f"{able}; about {more:,} more would show one of the size seen here."
        of_one = widest.pairs_for(0.01)
        return f"{able}; a difference of one point would need about {of_one:,} more."


def compare(baseline: Scored, candidate: Scored, traits: PairTraits | None = None, rivals: int = 1) -> Comparison:
    """Compare two models pair by pair; `traits` belong to the baseline, `rivals` candidates are compared with it.

    Raises DataError where the two were not scored on the same pairs.
    """
    candidate, baseline = candidate.on(baseline.pairs), baseline.on(baseline.pairs)
    family_B = families_of(baseline.pairs, traits)
    gaps = {MEAN: (baseline.pairs.mean_gap_B, candidate.pairs.mean_gap_B)}
    if baseline.reference is not None or candidate.reference is not None:
        gaps[OWN] = (baseline.own_gap_B, candidate.own_gap_B)
    return Comparison(
        baseline,
        candidate,
        family_B,
        {name: contrast(Sample(moved(*sides), family_B), rivals) for name, sides in gaps.items()},
        difference(baseline.pairs, candidate.pairs, traits),
        difference_by_slice(baseline.pairs, candidate.pairs, traits),
    )


def disagreements(comparison: Comparison, count: int) -> tuple[list[int], list[int]]:
    """The places of pairs that the candidate alone gets right, and of those that the baseline alone does.

    Taken evenly over all of them in the order of the pairs: chosen by place, not by looks.
    """
    before = wins(comparison.baseline.pairs.mean_gap_B)
    after = wins(comparison.candidate.pairs.mean_gap_B)
    return _evenly(np.flatnonzero(after > before), count), _evenly(np.flatnonzero(after < before), count)


def _evenly(places: Integers, count: int) -> list[int]:
    few = min(count, len(places))
    return [int(places[i * len(places) // few]) for i in range(few)]
