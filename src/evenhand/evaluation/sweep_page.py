"""The page of a sweep: what was tried, which trial is best and how sure that is; one HTML file without a script."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from evenhand.evaluation.cell import Cell, cell, change
from evenhand.evaluation.chart import (
    LABEL_WIDTH,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Panel,
    Row,
    axis_over,
    interval_chart,
    line,
    svg,
    text,
)
from evenhand.evaluation.html import page
from evenhand.figure import Figure, figure
from evenhand.files import write_whole

_CELL_HEIGHT = 40
_SQUARE_LEFT = 70
_MOST_LABELS = 12
_PLAIN, _LOG = "objective.margin", ("training.learning_rate", "objective.beta")
Trial = Mapping[str, Any]


def write_sweep_page(path: Path, found: Mapping[str, Any]) -> None:
    """Write the page of what a sweep found; all text from outside is escaped."""
    write_whole(path, sweep_page(found))


def sweep_page(found: Mapping[str, Any]) -> str:
    """The page as one HTML text."""
    trials = found["trials"]
    best = next((own for own in trials if found["best"] and own["number"] == found["best"]["number"]), None)
    return page(
        "sweep.html.j2",
        name=found["name"],
        title=_title(found, best),
        sentence=sweep_sentence(found),
        word="undecided" if best is None or found["equals"] else "better",
        rows=[_row(own, found["keys"], own is best) for own in trials],
        keys=[short(key) for key in found["keys"]],
        panels=_panels(found, best),
        accuracy_chart=_accuracies([own for own in trials if figure_of(own).value is not None]),
        recipe=found["recipe"],
        run=found["best"]["run"] if found["best"] else None,
    )


def sweep_sentence(found: Mapping[str, Any]) -> str:
    """What was found, in words with n and intervals."""
    trials, best = found["trials"], found["best"]
    if best is None:
        return f"None of {len(trials)} trials may win: each was ended early, fell apart, could not run, or changed the length of replies too much."
    own = next(trial for trial in trials if trial["number"] == best["number"])
    figure = figure_of(own)
    said = (
        f"{said_params(best['params'])}: length-balanced accuracy {figure.words(percent=True, digits=1)}, before training "
        f"{Figure(**found['before']).words(percent=True, digits=1)}. "
    )
    others = sum(trial["objection"] is None for trial in trials) - 1
    if found["equals"] is None:
        said += "The rows of some trials lie on other machines, so the trials were not compared pair by pair. "
    elif others:
        said += f"{found['equals']} of the {others} other trials that may win cannot be told from it on these {found['pairs']} pairs. "
    return (
        said
        + f"It was chosen as the best of {len(trials)} on these same pairs, which flatters it: confirm it on others."
    )


def sweep_words(found: Mapping[str, Any], path: Path) -> str:
    """For a terminal: one line a trial, the best first, then the sentence and where things are."""
    lines = []
    for own in found["trials"]:
        figure = figure_of(own)
        said = own["objection"] or f"{figure.words(percent=True, digits=1)}, loss {own['loss']:.4f}"
        lines.append(f"  trial {own['number']:>3}  {said_params(own['params'])}: {said}")
    tail = [sweep_sentence(found)]
    if found["recipe"]:
        tail.append(
            f"recipe: {found['recipe']}; go on to its export with: evenhand train {found['recipe']} --out {found['best']['run']}"
        )
    return "\n".join([*lines, *tail, f"page: {path}"])


def figure_of(trial: Trial) -> Figure:
    """A trial's length-balanced accuracy."""
    own = trial.get("length_balanced_accuracy")
    return Figure(**own) if own else Figure(None, 0)


def said_params(params: Mapping[str, Any]) -> str:
    """Values by their short names."""
    return ", ".join(f"{short(key)} {_value(own)}" for key, own in params.items())


def short(key: str) -> str:
    """A key's last part, for a person.

    >>> short("training.learning_rate")
    'learning rate'
    """
    return key.rpartition(".")[2].replace("_", " ")


def _value(own: Any) -> str:
    return f"{own:.4g}" if isinstance(own, float) else str(own)


def _title(found: Mapping[str, Any], best: Trial | None) -> str:
    if best is None:
        return "No trial may win"
    return (
        "One trial stands out"
        if found["equals"] == 0 and len(found["trials"]) > 1
        else "Best, not by much"
        if found["equals"]
        else "The best trial"
    )


def _row(own: Trial, keys: Sequence[str], best: bool) -> dict[str, Any]:
    less = own["behind_best"]
    return {
        "number": own["number"],
        "best": best,
        "values": [_value(own["params"][key]) for key in keys],
        "accuracy": cell(figure_of(own), True) if figure_of(own).value is not None else Cell("–"),
        "loss": f"{own['loss']:.4f}" if own.get("loss") is not None else "–",
        "loss_before": f"{own['loss_before']:.4f}" if own.get("loss") is not None else "",
        "tokens": cell(figure(own["median_tokens"]), False) if own.get("median_tokens") else Cell("–"),
        "behind": change(Figure(**less) if less else None),
        "objection": own["objection"] or "",
        "seconds": f"{own['seconds']:,.0f}",
    }


def _accuracies(trials: Sequence[Trial]) -> Markup:
    """The best dozen trials' accuracies with their intervals."""
    shown = trials[:_MOST_LABELS]
    if not shown:
        return Markup("")
    rows = [Row(f"trial {own['number']}", (("after", figure_of(own)),)) for own in shown]
    bounds = [bound for row in rows for _, f in row.figures for bound in (f.low, f.high, f.value) if bound is not None]
    words = "; ".join(f"{row.label} {row.figures[0][1].words(percent=True, digits=1)}" for row in rows)
    first = rows[0].figures[0][1].value or 0.0
    return interval_chart(
        rows, axis_over(bounds, LABEL_WIDTH, WIDTH - RIGHT), _percent, first, f"Accuracy by trial: {words}"
    )


def _percent(value: float) -> str:
    return f"{value * 100:.0f}"


def _panels(found: Mapping[str, Any], best: Trial | None) -> list[Panel]:
    measured = [own for own in found["trials"] if figure_of(own).value is not None]
    made = []
    if {"objective.beta", "objective.margin"} <= set(found["keys"]) and measured:
        made.append(heat_map(measured))
    if len(found["keys"]) > 1 and len(measured) > 1:
        made.append(parallel_coordinates(measured, found["keys"], best))
    if found["importance"]:
        words = ", ".join(f"{short(key)} {own * 100:.0f} %" for key, own in found["importance"].items())
        made.append(
            Panel(
                "What the accuracy hangs on",
                _bars(found["importance"]),
                f"Share of the spread that each key explains over these trials (PED-ANOVA): {words}. With few trials it is a hint.",
            )
        )
    return made


def heat_map(trials: Sequence[Trial]) -> Panel:
    """Beta across, margin up: the best accuracy of the trials at each place, darker for more."""
    betas = sorted({own["params"]["objective.beta"] for own in trials})
    margins = sorted({own["params"]["objective.margin"] for own in trials}, reverse=True)
    best: dict[tuple[float, float], Figure] = {}
    for own in trials:
        place = own["params"]["objective.beta"], own["params"]["objective.margin"]
        if place not in best or (figure_of(own).value or 0.0) > (best[place].value or 0.0):
            best[place] = figure_of(own)
    values = [figure.value or 0.0 for figure in best.values()]
    low, high = min(values), max(values)
    wide = (WIDTH - RIGHT - _SQUARE_LEFT) / len(betas)
    parts = [text(2, 14, "margin, nats per token", "axis-title")]
    for i, margin in enumerate(margins):
        top = TOP + i * _CELL_HEIGHT
        parts.append(text(_SQUARE_LEFT - 8, top + _CELL_HEIGHT / 2 + 4, f"{margin:.3g}", "tick", "end"))
        for j, beta in enumerate(betas):
            left, figure = _SQUARE_LEFT + j * wide, best.get((beta, margin))
            shade = 0.0 if figure is None else 0.12 + 0.5 * ((figure.value or 0.0) - low) / ((high - low) or 1.0)
            parts.append(
                f'<g class="mark after"><rect x="{left + 2:g}" y="{top + 2:g}" width="{wide - 4:g}" height="{_CELL_HEIGHT - 4}" rx="6" '
                f'fill="currentColor" fill-opacity="{shade:.2f}" stroke="currentColor" stroke-opacity=".25">'
                f"<title>{escape(figure.words(percent=True, digits=1) if figure else 'not tried')}</title></rect></g>"
            )
            if figure is not None and wide > 40:
                parts.append(
                    text(left + wide / 2, top + _CELL_HEIGHT / 2 + 5, f"{(figure.value or 0) * 100:.1f}", "", "middle")
                )
    bottom = TOP + len(margins) * _CELL_HEIGHT
    parts += [
        text(_SQUARE_LEFT + (j + 0.5) * wide, bottom + 16, f"{beta:.3g}", "tick", "middle")
        for j, beta in enumerate(betas)
    ]
    parts.append(text(WIDTH - RIGHT, bottom + 34, "beta", "axis-title", "end"))
    words = "; ".join(
        f"beta {b:g}, margin {m:g}: {figure.words(percent=True, digits=1)}" for (b, m), figure in best.items()
    )
    caption = "Length-balanced accuracy in percent, the best trial at each place; an empty place was not tried."
    return Panel("Beta and margin", svg("".join(parts), f"Accuracy by beta and margin: {words}", bottom + 40), caption)


def parallel_coordinates(trials: Sequence[Trial], keys: Sequence[str], best: Trial | None) -> Panel:
    """Each trial as a line over its values and its accuracy; the best one is drawn last."""
    height = 230
    columns = [*keys, "accuracy"]
    values = {key: [_number(own["params"][key]) for own in trials] for key in keys}
    values["accuracy"] = [figure_of(own).value or 0.0 for own in trials]
    axes = {key: axis_over([_scaled(key, own) for own in values[key]], height - 34, TOP + 14) for key in columns}
    step = (WIDTH - LEFT - RIGHT - 24) / max(1, len(columns) - 1)
    across = {key: LEFT + i * step for i, key in enumerate(columns)}
    parts = []
    for key in columns:
        parts.append(line((across[key], TOP + 6), (across[key], height - 28), "zero"))
        low, high = min(values[key]), max(values[key])
        shown = _percent if key == "accuracy" else lambda own: f"{own:.2g}"
        for own in dict.fromkeys((low, high)):
            parts.append(text(across[key] + 5, axes[key].place(_scaled(key, own)) + 4, shown(own), "tick"))
        parts.append(
            text(across[key], height - 8, short(key) if key != "accuracy" else "accuracy, %", "tick", "middle")
        )
    for i in sorted(range(len(trials)), key=lambda i: trials[i] is best):
        drawn = "L".join(f"{across[key]:g} {axes[key].place(_scaled(key, values[key][i])):g}" for key in columns)
        style = "line after" if trials[i] is best else "line raw"
        parts.append(f'<path class="{style}" d="M{drawn}"><title>trial {trials[i]["number"]}</title></path>')
    words = f"{len(trials)} trials by {', '.join(short(key) for key in keys)} and accuracy"
    return Panel(
        "Every trial",
        svg("".join(parts), words, height),
        "A line a trial; the green one is the best. Learning rate and beta on a log scale.",
    )


def _number(own: Any) -> float:
    return float(own) if isinstance(own, (int, float)) else 0.0


def _scaled(key: str, own: float) -> float:
    return math.log10(own) if key in _LOG and own > 0 else own


def _bars(importance: Mapping[str, float]) -> Markup:
    parts = []
    for i, (key, own) in enumerate(importance.items()):
        top = TOP + i * 34
        parts.append(text(2, top + 14, short(key), "row-label"))
        parts.append(
            f'<g class="mark after"><rect x="{LABEL_WIDTH}" y="{top}" width="{max(1.0, own * (WIDTH - LABEL_WIDTH - 60)):g}" height="20" rx="4" '
            'fill="currentColor" fill-opacity=".55"/></g>'
        )
        parts.append(text(LABEL_WIDTH + own * (WIDTH - LABEL_WIDTH - 60) + 8, top + 15, f"{own * 100:.0f} %", "tick"))
    words = ", ".join(f"{short(key)} {own * 100:.0f} %" for key, own in importance.items())
    return svg("".join(parts), f"Importance: {words}", TOP + len(importance) * 34 + 6)
