"""Rates and reply lengths by day as charts, with a mark on the day of each model's first draft."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date

from markupsafe import Markup

from evenhand.evaluation.chart import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Panel,
    Scales,
    frame,
    line,
    path,
    svg,
    text,
)
from evenhand.service.counts import Counts, total
from evenhand.service.overview import Overview
from evenhand.service.policy import SIGNALS, Signal

TITLES: Mapping[Signal, str] = {
    "takeover": "Takeover by a person",
    "escalation": "Escalation",
    "abandoned": "Abandoned by the customer",
    "edit": "Edited before sending",
    "thumb_down": "Thumbs down",
}
# The same where there is little room.
SHORT: Mapping[Signal, str] = {
    "takeover": "takeover",
    "escalation": "escalation",
    "abandoned": "abandoned",
    "edit": "edited",
    "thumb_down": "thumbs down",
}
_WEEK = 7
_NAMED_RELEASES = 4


def trend_panels(overview: Overview) -> list[Panel]:
    """A panel a signal, and one of reply lengths; those without a single trial are left out."""
    days = overview.days
    panels = []
    for signal in SIGNALS:
        daily = [overview.by_day.get(day, Counts()).tally(signal) for day in days]
        if any(tally.trials for tally in daily):
            rates = [tally.rate if tally.trials else None for tally in daily]
            smooth = _by_week(overview, days, signal)
            of = "thumbs" if signal == "thumb_down" else "drafts"
            panels.append(_panel(TITLES[signal], f"share of {of}", overview, (rates, smooth), _percent))
    lengths = [overview.mean_length.get(day) for day in days]
    if any(length is not None for length in lengths):
        panels.append(
            _panel("Length of drafted replies", "mean, characters", overview, (lengths, []), "{:,.0f}".format)
        )
    return panels


def _by_week(overview: Overview, days: Sequence[str], signal: Signal) -> list[float | None]:
    """The rate over each day and the six before it, as far as they are shown."""
    found: list[float | None] = []
    for at in range(len(days)):
        week = [overview.by_day[day] for day in days[max(0, at - _WEEK + 1) : at + 1] if day in overview.by_day]
        tally = total(week).tally(signal)
        found.append(tally.rate if tally.trials else None)
    return found


def _panel(
    title: str,
    unit: str,
    overview: Overview,
    lines: tuple[Sequence[float | None], Sequence[float | None]],
    label: Callable[[float], str],
) -> Panel:
    daily, weekly = lines
    seen = [value for value in daily if value is not None]
    words = f"{title}, {unit}, by day: from {label(min(seen))} to {label(max(seen))}, lately {label(seen[-1])}"
    legend = (("before", "day"), ("after", "seven days")) if weekly else ()
    chart = _chart(overview, lines, Scales("", unit, _day_label, label), words)
    return Panel(title, chart, "", legend)


def _chart(
    overview: Overview, lines: tuple[Sequence[float | None], Sequence[float | None]], scales: Scales, words: str
) -> Markup:
    days = [date.fromisoformat(day).toordinal() for day in overview.days]
    x = Axis(days[0] - 0.5, days[-1] + 0.5, LEFT, WIDTH - RIGHT)
    top = max([value for values in lines for value in values if value is not None] or [1.0]) or 1.0
    y = Axis(0.0, top * 1.08, HEIGHT - BOTTOM, TOP)
    drawn = ""
    for style, values in zip(("raw" if lines[1] else "after", "after"), lines, strict=True):
        for points in _pieces(days, values):
            drawn += f'<path class="line {style}" d="{path(points, x, y)}"/>'
    return svg(frame(x, y, scales) + _releases(overview, x) + drawn, words)


def _pieces(days: Sequence[int], values: Sequence[float | None]) -> list[list[tuple[float, float]]]:
    """The points of a line, in pieces between days without a value; a lone point is drawn as a dash."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for day, value in zip(days, values):
        if value is None:
            pieces.append([])
        else:
            pieces[-1].append((day, value))
    lone = [[(piece[0][0] - 0.2, piece[0][1]), (piece[0][0] + 0.2, piece[0][1])] for piece in pieces if len(piece) == 1]
    return [piece for piece in pieces if len(piece) > 1] + lone


def _releases(overview: Overview, x: Axis) -> str:
    """A line on the day of each model's first draft; the latest few have their names beside it."""
    shown = [life for life in overview.lives if life.first_day >= overview.since]
    parts = []
    for place, life in enumerate(shown):
        at = x.place(date.fromisoformat(life.first_day).toordinal())
        parts.append(line((at, TOP - 6), (at, HEIGHT - BOTTOM), "release"))
        if place < _NAMED_RELEASES:
            right = at > WIDTH * 0.62
            name = life.model if len(life.model) <= 18 else life.model[:17] + "…"
            parts.append(
                text(at + (-5 if right else 5), TOP + 4 + 13 * place, name, "release", "end" if right else "start")
            )
    return "".join(parts)


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %"


def _day_label(value: float) -> str:
    """A day in words; nothing between two days."""
    if value != int(value):
        return ""
    day = date.fromordinal(int(value))
    return f"{day.day} {day:%b}"
