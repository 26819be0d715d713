"""A run epoch by epoch, out of its journal: loss, accuracy, and whether replies shorten, repeat or no longer end."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evenhand.evaluation.generate import Generation
from evenhand.evaluation.preference import PreferenceEvaluation
from evenhand.figure import Figure, figure

_UNMEASURED = Figure(None, 0)
REPLIES = ("median_tokens", "median_characters", "repetition", "ended")


@dataclass(frozen=True, slots=True)
class Epoch:
    """What the last validation of a pass over the data found after `step`; epoch 0 is the untrained model.

    The figures of replies are of the few prompts that are answered at every validation, the same ones each time.
    """

    epoch: int
    step: int
    loss: float | None
    pairwise_accuracy: Figure
    median_tokens: Figure = _UNMEASURED
    median_characters: Figure = _UNMEASURED
    repetition: Figure = _UNMEASURED
    ended: Figure = _UNMEASURED

    def json(self) -> dict[str, Any]:
        """The shape in `report.json`."""
        figures = {name: getattr(self, name).json() for name in ("pairwise_accuracy", *REPLIES)}
        return {"epoch": self.epoch, "step": self.step, "loss": self.loss, **figures}


def epochs_of(
    journal: Sequence[Mapping[str, Any]], before: tuple[PreferenceEvaluation, Generation | None]
) -> list[Epoch]:
    """The untrained model and each epoch that a validation ended or fell into, the last one of each; empty without any."""
    last: dict[int, Mapping[str, Any]] = {}
    for record in journal:
        if "epoch" in record and "validation" in record:
            last[math.ceil(round(record["epoch"], 6))] = record
    if not last:
        return []
    answered = max((_of(record, "median_tokens").n for record in last.values()), default=0)
    return [_start(*before, answered), *(_epoch(number, record) for number, record in sorted(last.items()))]


def _start(preference: PreferenceEvaluation, replies: Generation | None, answered: int) -> Epoch:
    """The untrained model on the prompts that validations answer: the first of those that it was asked."""
    same = Generation(replies.replies[:answered], replies.family[:answered]) if replies and answered else None
    figures = {name: getattr(same, name) for name in REPLIES} if same else {}
    return Epoch(0, 0, None, preference.pairwise_accuracy, **figures)


def _epoch(number: int, record: Mapping[str, Any]) -> Epoch:
    validation = record["validation"]
    accuracy = validation.get("pairwise_accuracy")
    return Epoch(
        number,
        int(record["step"]),
        float(validation["loss"]),
        figure(accuracy) if accuracy else _UNMEASURED,
        **{name: _of(record, name) for name in REPLIES},
    )


def _of(record: Mapping[str, Any], name: str) -> Figure:
    found = (record["validation"].get("generation") or {}).get(name)
    return figure(found) if found else _UNMEASURED
