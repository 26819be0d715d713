"""Charts as inline SVG: each function takes values and returns one `<svg>`; colours come from the page's CSS.

A chart is 440 wide in its own units, so that it reads at 360 as at 560 pixels. `before` and `after` are CSS classes.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from evenhand.figure import Figure

WIDTH, HEIGHT = 440, 264
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 30, 40
LABEL_WIDTH, ROW_HEIGHT = 150, 38

Point = tuple[float, float]
Label = Callable[[float], str]


def plain_number(value: float) -> str:
    """A tick as a short number with a true minus sign.

    >>> plain_number(-0.25), plain_number(7.5e-05)
    ('−0.25', '7.5e−05')
    """
    return f"{value:.6g}".replace("-", "−")


@dataclass(frozen=True, slots=True)
class Axis:
    """Values from `low` to `high`, drawn from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        """Where a value is drawn, to a tenth."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    def ticks(self, count: int = 6) -> list[float]:
        """Round values within the axis, about `count` of them.

        >>> Axis(0.0, 1.0, 0, 100).ticks()
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
        """
        step = round_step((self.high - self.low) / count)
        first = math.ceil(self.low / step - 1e-9)
        return [round(i * step, 12) for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


@dataclass(frozen=True, slots=True)
class Series:
    """One line or cloud: its CSS class, its name for the reader, its points."""

    style: str
    name: str
    points: Sequence[Point]


@dataclass(frozen=True, slots=True)
class Scales:
    """What the two axes show, and how their ticks are written."""

    x_title: str
    y_title: str
    x_label: Label = lambda value: f"{value:,.0f}".replace("-", "−")
    y_label: Label = plain_number


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a chart of intervals: a label, and a figure by CSS class."""

    label: str
    figures: Sequence[tuple[str, Figure]]


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart with its title, and a caption that says how to read it."""

    title: str
    chart: Markup
    caption: str
    legend: tuple[tuple[str, str], ...] = ()


def round_step(rough: float) -> float:
    """The smallest of 1, 2, 2.5 and 5 times a power of ten that is at least `rough`.

    >>> round_step(0.03), round_step(180)
    (0.05, 200.0)
    """
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))


def axis_over(values: Iterable[float], start: float, end: float, share_free: float = 0.06) -> Axis:
    """An axis that holds all finite values with a little room; never of no extent."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    room = (high - low) * share_free or abs(high) * 0.1 or 1.0
    return Axis(low - room, high + room, start, end)


def x_axis(values: Iterable[float]) -> Axis:
    """A horizontal axis across the plot."""
    return axis_over(values, LEFT, WIDTH - RIGHT, 0.02)


def y_axis(values: Iterable[float]) -> Axis:
    """A vertical axis up the plot."""
    return axis_over(values, HEIGHT - BOTTOM, TOP)


def svg(body: str, description: str, height: float = HEIGHT) -> Markup:
    """The image around `body`, with a description for those who do not see it."""
    words = escape(description)
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{words}" xmlns="http://www.w3.org/2000/svg">'
        f"{body}</svg>"
    )


def text(x: float, y: float, words: str, style: str = "", anchor: str = "start") -> str:
    """A line of text, escaped."""
    return f'<text x="{x:g}" y="{y:g}" class="{style}" text-anchor="{anchor}">{escape(words)}</text>'


def line(start: Point, end: Point, style: str) -> str:
    """A straight line."""
    return f'<line x1="{start[0]:g}" y1="{start[1]:g}" x2="{end[0]:g}" y2="{end[1]:g}" class="{style}"/>'


def frame(x: Axis, y: Axis, scales: Scales) -> str:
    """Grid, ticks and titles of a plot."""
    parts = [
        text(2, 14, scales.y_title, "axis-title"),
        text(WIDTH - RIGHT, HEIGHT - 4, scales.x_title, "axis-title", "end"),
    ]
    for tick in y.ticks():
        place = y.place(tick)
        parts.append(line((LEFT, place), (WIDTH - RIGHT, place), "grid"))
        parts.append(text(LEFT - 7, place + 4, scales.y_label(tick), "tick", "end"))
    parts += [text(x.place(tick), HEIGHT - BOTTOM + 17, scales.x_label(tick), "tick", "middle") for tick in x.ticks()]
    return "".join(parts)


def path(points: Iterable[Point], x: Axis, y: Axis) -> str:
    """The data of a line through `points`."""
    return "M" + "L".join(f"{x.place(a):g} {y.place(b):g}" for a, b in points)


def line_chart(
    lines: Sequence[Series], marks: Sequence[tuple[float, Figure]], scales: Scales, description: str
) -> Markup:
    """Lines over steps, and `marks` with their intervals where they have one."""
    bounds = [bound for _, f in marks for bound in (f.value, f.low, f.high) if bound is not None]
    x = x_axis([a for series in lines for a, _ in series.points] + [step for step, _ in marks])
    y = y_axis([b for series in lines for _, b in series.points] + bounds)
    drawn = "".join(f'<path class="line {s.style}" d="{path(s.points, x, y)}"/>' for s in lines if s.points)
    return svg(frame(x, y, scales) + drawn + "".join(_mark(x.place(at), f, y) for at, f in marks), description)


def _mark(place: float, figure: Figure, y: Axis) -> str:
    if figure.value is None:
        return ""
    bar = ""
    if figure.low is not None and figure.high is not None:
        bar = line((place, y.place(figure.low)), (place, y.place(figure.high)), "whisker")
    return f'<g class="mark">{bar}<circle cx="{place:g}" cy="{y.place(figure.value):g}" r="4"/></g>'


def interval_chart(rows: Sequence[Row], x: Axis, label: Label, reference: float, description: str) -> Markup:
    """One row a label, one dot with its 95 % interval a figure; a firm line stands at `reference`."""
    bottom = TOP + len(rows) * ROW_HEIGHT
    parts = [line((x.place(tick), TOP - 8), (x.place(tick), bottom), "grid") for tick in x.ticks(5)]
    parts.append(line((x.place(reference), TOP - 8), (x.place(reference), bottom), "zero"))
    parts += [text(x.place(tick), bottom + 18, label(tick), "tick", "middle") for tick in x.ticks(5)]
    for i, row in enumerate(rows):
        middle = TOP + (i + 0.5) * ROW_HEIGHT
        parts.append(text(2, middle, row.label, "row-label"))
        parts.append(text(2, middle + 15, f"n = {max(f.n for _, f in row.figures):,}", "tick"))
        gap = 11.0
        top = middle - gap * (len(row.figures) - 1) / 2
        parts += [_whisker(top + gap * j, style, figure, x) for j, (style, figure) in enumerate(row.figures)]
    return svg("".join(parts), description, bottom + 28)


def _whisker(place: float, style: str, figure: Figure, x: Axis) -> str:
    if figure.value is None:
        return ""
    bar = ""
    if figure.low is not None and figure.high is not None:
        bar = line((x.place(figure.low), place), (x.place(figure.high), place), "whisker")
    dot = f'<circle cx="{x.place(figure.value):g}" cy="{place:g}" r="4.5"/>'
    return f'<g class="mark {style}"><title>{escape(figure.words(percent=True, digits=1))}</title>{bar}{dot}</g>'


def histogram(clouds: Sequence[Series], scales: Scales, description: str, bins: int = 16) -> Markup:
    """Shares of each cloud's first coordinates in `bins` equal bins from zero, as stepped areas one over the other."""
    top = max((a for cloud in clouds for a, _ in cloud.points), default=1.0) or 1.0
    width = round_step(top / bins)
    heights = {cloud.style: _shares([a for a, _ in cloud.points], width, top) for cloud in clouds}
    x = Axis(0.0, width * len(next(iter(heights.values()))), LEFT, WIDTH - RIGHT)
    y = Axis(0.0, max(max(shares) for shares in heights.values()) * 1.08, HEIGHT - BOTTOM, TOP)
    areas = "".join(
        f'<path class="area {style}" d="{_steps(shares, width, x, y)}"/>' for style, shares in heights.items()
    )
    return svg(frame(x, y, scales) + areas, description)


def _shares(values: Sequence[float], width: float, top: float) -> list[float]:
    counts = [0] * (math.floor(top / width) + 1)
    for value in values:
        counts[math.floor(value / width)] += 1
    return [count / max(1, len(values)) for count in counts]


def _steps(shares: Sequence[float], width: float, x: Axis, y: Axis) -> str:
    corners = [(i * width + side, share) for i, share in enumerate(shares) for side in (0.0, width)]
    return path([(0.0, 0.0), *corners, (len(shares) * width, 0.0)], x, y) + "Z"


def scatter(clouds: Sequence[Series], lines: Sequence[Series], scales: Scales, description: str) -> Markup:
    """Clouds of points with zero lines, and lines over them."""
    every = [point for series in (*clouds, *lines) for point in series.points]
    x, y = x_axis([a for a, _ in every] + [0.0]), y_axis([b for _, b in every] + [0.0])
    zeros = line((LEFT, y.place(0)), (WIDTH - RIGHT, y.place(0)), "zero")
    zeros += line((x.place(0), TOP), (x.place(0), HEIGHT - BOTTOM), "zero")
    dots = "".join(f'<path class="dots {c.style}" d="{_dots(c.points, x, y)}"/>' for c in clouds if c.points)
    drawn = "".join(f'<path class="line trend {s.style}" d="{path(s.points, x, y)}"/>' for s in lines if s.points)
    return svg(frame(x, y, scales) + zeros + dots + drawn, description)


def _dots(points: Iterable[Point], x: Axis, y: Axis) -> str:
    """Lines of no length with round ends: a thousand dots in one small path."""
    return "".join(f"M{x.place(a):g} {y.place(b):g}h0" for a, b in points)
