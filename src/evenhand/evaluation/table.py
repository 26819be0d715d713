"""The tables of a report, in words: figures before and after, the objective's numbers, the recipe's settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evenhand.evaluation.cell import Cell, cell, change
from evenhand.evaluation.epochs import Epoch
from evenhand.evaluation.generate import Generation
from evenhand.evaluation.preference import PreferenceEvaluation
from evenhand.figure import Figure


@dataclass(frozen=True, slots=True)
class FigureRow:
    """One line of the table of figures: what it is, before, after, and the change in words."""

    name: str
    meaning: str
    before: Cell
    after: Cell
    change: Cell


_SHARES = (
    ("pairwise_accuracy", "Pairwise accuracy", "gap above zero, ties one half"),
    ("length_balanced_accuracy", "Length-balanced accuracy", "mean over shorter and longer chosen answers"),
    ("accuracy_by_sum", "Accuracy by sum", "by summed log-probability, which favours short answers"),
)
_REPLY_FIGURES = (
    ("ended", "Replies that end", "stop by themselves within 256 tokens", True),
    ("repetition", "Repetition", "token 4-grams already seen in the reply", True),
    ("median_tokens", "Median tokens", "in a reply, its end token included", False),
    ("median_characters", "Median characters", "in a reply", False),
)


def figure_rows(
    preferences: tuple[PreferenceEvaluation, PreferenceEvaluation],
    generations: tuple[Generation | None, Generation | None],
    differences: Mapping[str, Figure],
) -> list[FigureRow]:
    """The table of figures before and after: accuracies, length correlation, and replies where both have some."""
    rows = [
        FigureRow(name, meaning, *_cells(preferences, key, True), change(differences.get(key)))
        for key, name, meaning in _SHARES
        if getattr(preferences[1], key).value is not None or key != "accuracy_by_sum"  # rewards have no sum
    ]
    correlation = _cells(preferences, "spearman_length", False, 2)
    rows.append(FigureRow("Length correlation", "Spearman, mean score and length", *correlation, change(None)))
    if None in generations:
        return rows
    if (moved := differences.get("reward")) is not None:
        cells = (*_cells(generations, "reward", False, 3), cell(moved, False, 3))
        rows.insert(0, FigureRow("Reward", "mean over replies, as the recipe weighs rewards", *cells))
    return rows + [
        FigureRow(name, meaning, *_cells(generations, key, shares), change(differences.get(key)))
        for key, name, meaning, shares in _REPLY_FIGURES
    ]


def _cells(sides: tuple[object, object], key: str, shares: bool, digits: int = 0) -> tuple[Cell, Cell]:
    before, after = (cell(getattr(side, key), shares, digits) for side in sides)
    return before, after


def epoch_rows(epochs: Sequence[Epoch]) -> list[tuple[str, str, tuple[Cell, ...]]]:
    """Each epoch's name, what else there is to say of it, and its accuracy, reply length, repetition and share that ends."""
    return [
        (
            f"Epoch {own.epoch}",
            f"step {own.step:,}, loss {own.loss:.3f}" if own.loss is not None else "before training",
            (
                cell(own.pairwise_accuracy, True),
                cell(own.median_tokens, False),
                cell(own.repetition, True),
                cell(own.ended, True),
            ),
        )
        for own in epochs
    ]


def objective_numbers(objective: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Beta, margin and the paper's gamma with their units, as far as the objective has them."""
    beta, margin = objective.get("beta"), objective.get("margin")
    numbers = []
    if beta is not None:
        numbers.append(("beta", f"{beta:g}", "gradient temperature"))
    if margin is not None:
        numbers.append(("margin", f"{margin:g}", "target gap, nats per token"))
    if beta is not None and margin is not None:
        numbers.append(("paper gamma", f"{beta * margin:g}", "beta × margin, as in the paper and TRL"))
    return numbers


def flattened(recipe: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """The recipe's settings as dotted keys and values, in the recipe's order.

    >>> flattened({"data": {"max_tokens": 2048}, "name": "harbor", "model": {"adapter": None}})
    [('data.max_tokens', '2048'), ('name', 'harbor'), ('model.adapter', 'null')]
    """
    found: list[tuple[str, str]] = []
    for key, value in recipe.items():
        if isinstance(value, Mapping) and value:
            found += flattened(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", "null" if value is None else str(value)))
    return found
