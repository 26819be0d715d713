"""Whether a model's preference survives other words for the same question, on a built-in set of support questions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from evenhand.data.schema import Message, PreferencePair
from evenhand.evaluation.interval import Floats, Sample, mean_difference, share
from evenhand.evaluation.preference import wins
from evenhand.figure import Figure

_FILE = Path(__file__).parent / "paraphrases.yaml"


@dataclass(frozen=True, slots=True)
class Paraphrased:
    """Accuracy on the questions as first worded, on their other wordings, the change, and how often both agree."""

    original: Figure
    paraphrased: Figure
    change: Figure
    same: Figure

    def json(self) -> dict[str, Any]:
        """The shape in `evenhand evaluate --json`."""
        return {
            "original": self.original.json(),
            "paraphrased": self.paraphrased.json(),
            "change": self.change.json(),
            "same_preference": self.same.json(),
        }


def paraphrase_pairs() -> list[PreferencePair]:
    """Every question in every wording, the first wording of each first; `family` is the question."""
    return [
        PreferencePair(
            f"question {i}.{j}", i * 10 + j, f"question {i}", (Message("user", asked),), row["chosen"], row["rejected"],
            family=f"question {i}",
        )
        for i, row in enumerate(_rows())
        for j, asked in enumerate(row["asked"])
    ]  # fmt: skip


def paraphrased(gaps: Callable[[Sequence[PreferencePair]], Floats]) -> Paraphrased:
    """What `gaps`, chosen minus rejected for each pair, makes of the set; a question whose gap is no number is left out."""
    gap_QW = gaps(paraphrase_pairs()).reshape(len(_rows()), -1)
    gap_QW = gap_QW[np.isfinite(gap_QW).all(axis=1)]
    won_QW = wins(gap_QW)
    questions, others = len(won_QW), won_QW.shape[1] - 1
    family_B = np.repeat(np.arange(questions), others)
    first_B, other_B = np.repeat(won_QW[:, 0], others), won_QW[:, 1:].reshape(-1)
    return Paraphrased(
        share(Sample(won_QW[:, 0], np.arange(questions))),
        share(Sample(other_B, family_B)),
        mean_difference(Sample(other_B - first_B, family_B)),
        share(Sample((other_B == first_B).astype(np.float64), family_B)),
    )


@cache
def _rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return rows
