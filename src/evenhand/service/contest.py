"""Models beside each other: each one's figures over its whole life, and how they differ from the reference's."""

from collections.abc import Sequence
from dataclasses import dataclass

from evenhand.evaluation.cell import Cell, cell
from evenhand.evaluation.chart import LABEL_WIDTH, RIGHT, WIDTH, Panel, Row, axis_over, interval_chart
from evenhand.evaluation.verdict import points
from evenhand.figure import Figure
from evenhand.service.overview import Histogram, Life, Overview, median, moments
from evenhand.service.policy import SIGNALS
from evenhand.service.production import Release
from evenhand.service.sequence import mean_difference, rate, rate_difference
from evenhand.service.trends import SHORT, TITLES

# So many beside each other are read on a telephone.
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Unit:
    """How a median is told: of what, times what, with how many digits, in which unit."""

    name: str
    scale: float
    form: str
    of: str


UNITS = {
    "length": Unit("Median reply", 1.0, "{:,.0f}", "characters"),
    "latency": Unit("Median time to draft", 0.001, "{:.2f}", "s"),
    "distance": Unit("Median share of an edit", 100.0, "{:.0f}", "%"),
}


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table, a cell a model."""

    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Contest:
    """The reference first, then the latest others; a panel of differences for each of those."""

    models: tuple[Life, ...]
    lines: tuple[Line, ...]
    panels: tuple[Panel, ...]
    left_out: int


def contest(overview: Overview, release: Release | None) -> Contest | None:
    """The model in production, else that with most drafts, against the latest others; None without drafts."""
    if not overview.lives:
        return None
    incumbent = release.known_as(release.incumbent) if release and release.incumbent else ()
    reference = overview.life(incumbent) or max(overview.lives, key=lambda life: life.counts.drafts)
    others = [life for life in overview.lives if life is not reference]
    models = (reference, *others[: _SHOWN - 1])
    panels = [_differences(life, reference) for life in models[1:]]
    return Contest(models, tuple(_lines(models)), tuple(panels), len(others) - len(panels))


def median_cell(histogram: Histogram, unit: Unit) -> Cell:
    """A median as a cell.

    >>> median_cell({}, UNITS["length"]).value
    '–'
    """
    middle, low, high = median(histogram)
    if middle is None:
        return Cell("–")
    bounds = [unit.form.format(bound * unit.scale) for bound in (low, high) if bound is not None]
    return Cell(f"{unit.form.format(middle * unit.scale)} {unit.of}", " to ".join(bounds))


def _lines(models: Sequence[Life]) -> list[Line]:
    lines = [Line("Drafts", tuple(Cell(f"{life.counts.drafts:,}", "", f"since {life.first_day}") for life in models))]
    lines += [
        Line(TITLES[signal], tuple(cell(rate(life.counts.tally(signal)), shares=True) for life in models))
        for signal in SIGNALS
    ]
    lines += [
        Line(unit.name, tuple(median_cell(life.histograms.get(measure, {}), unit) for life in models))
        for measure, unit in UNITS.items()
    ]
    return lines


def _differences(life: Life, reference: Life) -> Panel:
    """The model's rates minus the reference's, and its mean length minus the reference's in the caption."""
    rows = [
        Row(SHORT[signal], (("after", rate_difference(life.counts.tally(signal), reference.counts.tally(signal))),))
        for signal in SIGNALS
    ]
    bounds = [bound for row in rows for _, f in row.figures for bound in (f.low, f.value, f.high) if bound is not None]
    words = "; ".join(f"{row.label} {row.figures[0][1].words(percent=True, digits=1)}" for row in rows)
    title = f"{life.model} minus {reference.model}"
    chart = interval_chart(
        rows, axis_over([*bounds, 0.0], LABEL_WIDTH, WIDTH - RIGHT), points, 0.0, f"{title}: {words}"
    )
    mine, theirs = (moments(one.histograms.get("length", {})) for one in (life, reference))
    length = mean_difference(mine, theirs)
    return Panel(title, chart, f"Mean length in these days, characters: {_length_words(length)}.")


def _length_words(figure: Figure) -> str:
    if figure.value is None:
        return "not known of both"
    interval = (
        f" ({figure.low:+,.0f} to {figure.high:+,.0f})" if figure.low is not None and figure.high is not None else ""
    )
    return f"{figure.value:+,.0f}{interval}".replace("-", "−")
