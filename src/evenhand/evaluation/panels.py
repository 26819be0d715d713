"""The charts of a report: what each shows, and the words that go with it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from evenhand.evaluation.chart import (
    LABEL_WIDTH,
    RIGHT,
    WIDTH,
    Axis,
    Label,
    Panel,
    Point,
    Row,
    Scales,
    Series,
    axis_over,
    histogram,
    interval_chart,
    line_chart,
    plain_number,
    scatter,
)
from evenhand.evaluation.generate import Generation
from evenhand.evaluation.verdict import points
from evenhand.figure import Figure
from evenhand.model.scores import ScoredPairs

Record = Mapping[str, Any]
Slices = Mapping[str, Mapping[str, Figure]]

NAMES = {
    "pairwise_accuracy": "Pairwise accuracy",
    "length_balanced_accuracy": "Length-balanced",
    "accuracy_by_sum": "By summed score",
    "chosen_shorter": "Chosen is shorter",
    "chosen_longer": "Chosen is longer",
    "equal": "Equal length",
    "q1": "Shortest quarter",
    "q2": "Second quarter",
    "q3": "Third quarter",
    "q4": "Longest quarter",
}
_CHANCE = "The firm line at 50 % is chance."
_LENGTH_CAPTION = (
    "Quarters are of chosen minus rejected tokens. A model that merely likes short or long answers wins one end and "
    f"loses the other. {_CHANCE}"
)
_MOST_CATEGORIES = 10
_MOST_DOTS = 700
_MOST_POINTS = 400
_TREND_BINS = 8


@dataclass(frozen=True, slots=True)
class Curve:
    """One quantity of the journal over the steps: its keys in training and validation records, and its unit."""

    title: str
    key: str
    validation_key: str
    unit: str
    label: Label


BEFORE_AFTER = (("before", "before"), ("after", "after"))


def whole_percent(value: float) -> str:
    """A tick of a share.

    >>> whole_percent(0.55)
    '55 %'
    """
    return f"{value * 100:.0f} %"


_CURVES = (
    Curve("Loss", "loss", "loss", "nats", plain_number),
    Curve("Accuracy", "accuracy", "pairwise_accuracy", "share of pairs with gap > 0", whole_percent),
    Curve("Gap", "gap", "gap", "nats per token, chosen minus rejected", plain_number),
    Curve("Learning rate", "learning_rate", "", "of AdamW", plain_number),
)


def difference_chart(differences: Mapping[str, Figure]) -> Markup:
    """The paired differences of accuracy with their intervals around a line at zero."""
    names = ("pairwise_accuracy", "length_balanced_accuracy", "accuracy_by_sum")
    shown = {name: differences[name] for name in names if differences[name].value is not None}
    rows = [Row(NAMES[name], (("after", figure),)) for name, figure in shown.items()]
    bounds = [b for f in shown.values() for b in (f.value, f.low, f.high) if b is not None]
    x = axis_over([*bounds, 0.0], LABEL_WIDTH, WIDTH - RIGHT)
    words = "; ".join(f"{NAMES[name]} {figure.words(percent=True, digits=1)}" for name, figure in shown.items())
    return interval_chart(rows, x, _whole_points, 0.0, f"After minus before: {words}")


def _whole_points(value: float) -> str:
    return points(value).removesuffix(".0")


def training_panels(journal: Sequence[Record], margin: float | None) -> list[Panel]:
    """Loss, accuracy, gap and learning rate over the steps, as far as the journal has them."""
    panels = (_over_steps(journal, curve, margin if curve.key == "gap" else None) for curve in _CURVES)
    return [panel for panel in panels if panel is not None]


def _over_steps(journal: Sequence[Record], curve: Curve, target: float | None) -> Panel | None:
    training, marks = series_of(journal, curve.key), validation_of(journal, curve.validation_key)
    if len(training) < 2:
        return None
    window = 1 if curve.key == "learning_rate" else max(1, len(training) // 20)
    smooth = smoothed(training, window)
    lines = [Series("raw", "one step", thinned(training, _MOST_POINTS)), Series("after", "training", smooth)]
    legend = [("after", f"training, mean of {window} steps" if window > 1 else "training")]
    if target is not None:
        lines.append(Series("target", "margin", [(training[0][0], target), (training[-1][0], target)]))
        legend.append(("target", f"margin {target:g}"))
    legend += (
        [("mark", "held-out pairs, 95 % interval" if marks[0][1].low is not None else "held-out pairs")]
        if marks
        else []
    )
    scales = Scales("step", curve.unit, y_label=curve.label)
    words = f"{curve.title} over {training[-1][0]:.0f} steps: from {smooth[0][1]:.3g} to {smooth[-1][1]:.3g}"
    return Panel(curve.title, line_chart(lines, marks, scales, words), "", tuple(legend))


def series_of(journal: Sequence[Record], key: str) -> list[Point]:
    """Step and value of every record that has a finite `key`; where a step was run again, the later one counts."""
    found = {int(r["step"]): float(r[key]) for r in journal if _is_number(r.get(key)) and "step" in r}
    return sorted((float(step), value) for step, value in found.items())


def validation_of(journal: Sequence[Record], key: str) -> list[tuple[float, Figure]]:
    """Step and figure of every validation that has `key`, as a figure or as a bare number."""
    found: dict[int, Figure] = {}
    for record in journal:
        stated: Any = (record.get("validation") or {}).get(key)
        figure = Figure(**stated) if isinstance(stated, Mapping) else Figure(stated, 0)
        if _is_number(figure.value):
            found[int(record["step"])] = figure
    return sorted(((float(step), figure) for step, figure in found.items()), key=lambda mark: mark[0])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def smoothed(training: Sequence[Point], window: int) -> list[Point]:
    """A centred running mean over `window` steps, shorter at the ends."""
    running = np.cumsum([0.0, *(value for _, value in training)])
    place = np.arange(len(training))
    start, end = np.maximum(place - window // 2, 0), np.minimum(place + (window - 1) // 2 + 1, len(training))
    means = list(zip((step for step, _ in training), ((running[end] - running[start]) / (end - start)).tolist()))
    return thinned(means, _MOST_POINTS)


def thinned(line: Sequence[Point], most: int) -> list[Point]:
    """At most about `most` of the points, evenly spaced, the last one always among them."""
    kept = list(line[:: max(1, math.ceil(len(line) / most))])
    return kept if not kept or kept[-1] == line[-1] else [*kept, line[-1]]


def slice_panels(before: Slices, after: Slices) -> list[Panel]:
    """Accuracy by length, and by category where there is one; empty slices are left out."""
    by_length = [
        (name, value) for name in ("longer_side", "length_difference_quartile") for value in after.get(name, {})
    ]
    categories = sorted(after.get("category", {}), key=lambda value: -after["category"][value].n)
    shown = categories[:_MOST_CATEGORIES]
    some = f" The {len(shown)} largest of {len(categories)} are drawn." if len(shown) < len(categories) else ""
    return [
        panel
        for panel in (
            _slice_panel("Accuracy by length", by_length, (before, after), _LENGTH_CAPTION),
            _slice_panel(
                "Accuracy by category", [("category", value) for value in shown], (before, after), _CHANCE + some
            ),
        )
        if panel is not None
    ]


def _slice_panel(
    title: str, keys: Sequence[tuple[str, str]], sides: tuple[Slices, Slices], caption: str
) -> Panel | None:
    before, after = sides
    rows = [
        Row(NAMES.get(value, value), (("before", before[name][value]), ("after", after[name][value])))
        for name, value in keys
        if after[name][value].n
    ]
    if not rows:
        return None
    bounds = [b for row in rows for _, f in row.figures for b in (f.low, f.high) if b is not None]
    x = Axis(min([0.4, *bounds]) - 0.02, max([0.6, *bounds]) + 0.02, LABEL_WIDTH, WIDTH - RIGHT)
    words = "; ".join(
        f"{row.label} {' then '.join(f.words(percent=True, digits=1) for _, f in row.figures)}" for row in rows
    )
    chart = interval_chart(rows, x, whole_percent, 0.5, f"{title}, before then after: {words}")
    return Panel(title, chart, caption, BEFORE_AFTER)


def length_panel(before: Generation, after: Generation) -> Panel:
    """How long greedy replies are, before and after."""
    clouds = [
        Series(style, style, [(float(reply.tokens), 0.0) for reply in generation.replies])
        for style, generation in (("before", before), ("after", after))
    ]
    middles = [round(generation.median_tokens.value or 0) for generation in (before, after)]
    medians = f"median {middles[0]} tokens before, {middles[1]} after"
    chart = histogram(
        clouds, Scales("tokens in a reply", "share of replies", y_label=whole_percent), f"Reply lengths: {medians}"
    )
    return Panel("Length of replies", chart, f"Greedy replies to held-out prompts: {medians}.", BEFORE_AFTER)


def gap_panel(before: ScoredPairs, after: ScoredPairs) -> Panel:
    """Length difference against gap: a slope is a liking for length, a height is a liking for the chosen answer."""
    clouds = [Series(style, style, _length_and_gap(scored)) for style, scored in (("before", before), ("after", after))]
    trends = [Series(cloud.style, cloud.name, trend(cloud.points)) for cloud in clouds]
    drawn = [Series(cloud.style, cloud.name, thinned(cloud.points, _MOST_DOTS)) for cloud in clouds]
    some = f" {len(drawn[0].points)} of {len(before)} pairs are drawn." if len(drawn[0].points) < len(before) else ""
    scales = Scales("chosen minus rejected tokens", "gap, nats per token")
    words = f"Length difference against gap for {len(before)} held-out pairs, before and after"
    caption = f"Lines: mean gap in {_TREND_BINS} groups of equal size. Above zero the chosen answer is preferred.{some}"
    return Panel("Length against preference", scatter(drawn, trends, scales, words), caption, BEFORE_AFTER)


def _length_and_gap(scored: ScoredPairs) -> list[Point]:
    difference_B = (scored.chosen_tokens_B - scored.rejected_tokens_B).astype(np.float64)
    return list(zip(difference_B.tolist(), scored.mean_gap_B.tolist()))


def trend(cloud: Sequence[Point]) -> list[Point]:
    """Mean position of each of eight groups of equal size, from the smallest first coordinate to the largest."""
    ordered = np.array(sorted(cloud), dtype=np.float64).reshape(-1, 2)
    groups = [group for group in np.array_split(ordered, _TREND_BINS) if len(group)]
    return [(float(group[:, 0].mean()), float(group[:, 1].mean())) for group in groups]
