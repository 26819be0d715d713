"""The page of a comparison: one HTML file that needs no network and no script, and its JSON beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evenhand.data.schema import PreferencePair
from evenhand.evaluation.cell import Cell, cell, change, signed
from evenhand.evaluation.chart import LABEL_WIDTH, RIGHT, WIDTH, Panel, Row, axis_over, interval_chart
from evenhand.evaluation.comparison import READINGS, Comparison, disagreements
from evenhand.evaluation.generate import Generation
from evenhand.evaluation.html import page
from evenhand.evaluation.panels import NAMES, difference_chart, gap_panel, length_panel
from evenhand.evaluation.report import shown
from evenhand.evaluation.verdict import TITLES, points
from evenhand.figure import Figure, figure
from evenhand.files import write_json, write_whole

_EXAMPLES = 4
_MOST_SLICES = 12
_MIB = 1 << 20
# What was measured of the baseline and of the candidate, as JSON.
Sides = tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]


@dataclass(frozen=True, slots=True)
class Told:
    """One candidate against the baseline, with what is shown beside the scores: replies, costs, judges, texts.

    The pairs of sides are (baseline, candidate); `extras` are rows of the table that were measured elsewhere.
    """

    comparison: Comparison
    texts: Sequence[PreferencePair] = ()
    replies: tuple[Generation | None, Generation | None] = (None, None)
    costs: Sides = (None, None)
    drifts: Sides = (None, None)
    production: Sides = (None, None)
    reply_differences: Mapping[str, Figure] = field(default_factory=dict)
    judged: Sequence[Mapping[str, Any]] = ()
    redacted: bool = True


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table: what it is, the baseline, the candidate, the change."""

    name: str
    meaning: str
    before: Cell
    after: Cell
    change: Cell


@dataclass(frozen=True, slots=True)
class Case:
    """One pair on which the two disagree, as text that is safe to show, with both gaps."""

    right: str
    prompt: str
    chosen: str
    rejected: str
    gaps: tuple[str, str]


def write_comparison(path: Path, told: Sequence[Told], value: Mapping[str, Any]) -> None:
    """Write the page, and `value` as JSON beside it, each whole or not at all."""
    write_json(path.with_suffix(".json"), dict(value))
    write_whole(path, comparison_page(told))


def comparison_page(told: Sequence[Told]) -> str:
    """The page as one HTML text, a chapter for each candidate; all text from outside is escaped."""
    return page(
        "compare.html.j2",
        chapters=[chapter(own) for own in told],
    )


def chapter(told: Told) -> dict[str, Any]:
    """What the template needs of one candidate."""
    found = told.comparison
    return {
        "baseline": found.baseline.name,
        "candidate": found.candidate.name,
        "word": found.word,
        "title": _title(found),
        "sentence": found.sentence,
        "difference_chart": difference_chart(found.differences),
        "lines": [
            *accuracy_lines(found),
            *reply_lines(told),
            *drift_lines(told.drifts),
            *production_lines(told.production),
            *cost_lines(told.costs),
        ],
        "panels": panels(told),
        "cases": cases(told),
        "judged": told.judged,
        "checks": checks(found),
    }


def _title(found: Comparison) -> str:
    if found.withheld:
        return "No verdict"
    return TITLES[found.word] if found.word != "undecided" else "Cannot be told apart"


def accuracy_lines(found: Comparison) -> list[Line]:
    """Accuracy by each reading, then the other ways to count."""
    before, after = found.baseline.accuracies(found.family_B), found.candidate.accuracies(found.family_B)
    lines = []
    for name, own in found.contrasts.items():
        one, other = (cell(side.get(name, next(iter(side.values()))), True) for side in (before, after))
        meaning = f"by {READINGS[name]}" if len(found.contrasts) > 1 else "gap above zero, ties one half"
        lines.append(Line("Pairwise accuracy", meaning, one, other, change(own.difference)))
    for name in ("length_balanced_accuracy", "accuracy_by_sum"):
        lines.append(Line(NAMES[name], "paired change", Cell("–"), Cell("–"), change(found.differences[name])))
    return lines


def reply_lines(told: Told) -> list[Line]:
    """Figures of the replies that both kept."""
    before, after = told.replies
    if before is None or after is None:
        return []
    rows = (
        (
            "Median tokens",
            "in a reply, its end token included; the change is the mean of paired differences",
            "median_tokens",
            False,
            "tokens",
        ),
        (
            "Median characters",
            "in a reply; the change is the mean of paired differences",
            "median_characters",
            False,
            "characters",
        ),
        ("Replies that end", "stop by themselves", "ended", True, "ended"),
        ("Repetition", "token 4-grams already seen in the reply", "repetition", True, "repetition"),
    )
    return [
        Line(
            name,
            meaning,
            cell(getattr(before, key), shares),
            cell(getattr(after, key), shares),
            _change(told.reply_differences.get(moved), shares),
        )
        for name, meaning, key, shares, moved in rows
    ]


def _change(figure: Figure | None, shares: bool) -> Cell:
    return change(figure) if shares or figure is None else cell(figure, False, 1)


def drift_lines(drifts: Sides) -> list[Line]:
    """How far each has moved from the model that it started as, where that was measured of one."""
    rows = (
        ("Drift, own replies", "KL(model, its start) along the model's replies, nats a token", "on_new_replies"),
        ("Drift, the start's replies", "KL(start, model) along the start's replies, nats a token", "on_start_replies"),
    )
    return _unpaired_lines(drifts, rows, False)


def production_lines(production: Sides) -> list[Line]:
    """What became of each one's drafts, where a feedback store knows one of them."""
    rows = (
        ("Escalated", "share of drafts in production", "escalated"),
        ("Overridden", "share of drafts in production that were edited or taken over", "overridden"),
    )
    return _unpaired_lines(production, rows, True)


def _unpaired_lines(sides: Sides, rows: Sequence[tuple[str, str, str]], shares: bool) -> list[Line]:
    """Figures that have no paired change; nothing where neither side has any."""
    if sides == (None, None):
        return []
    lines = []
    for name, meaning, key in rows:
        before, after = (Cell("not measured") if own is None else cell(figure(own[key]), shares, 3) for own in sides)
        lines.append(Line(name, meaning, before, after, Cell("–")))
    return lines


def cost_lines(costs: Sides) -> list[Line]:
    """What training took, where a run measured it; a ratio is candidate over baseline."""
    one, other = costs
    rows = (
        ("Training memory", "peak of the process or GPU, MiB", "memory_peak_bytes", 1 / _MIB, 0),
        ("Training speed", "pairs a second, evaluation not counted", "pairs_per_second", 1.0, 2),
        ("Training time", "seconds of steps", "seconds", 1.0, 0),
    )
    lines: list[Line] = []
    if one is None and other is None:
        return lines
    for name, meaning, key, scale, digits in rows:
        sides = [Cell("not measured") if c is None else Cell(signed(c[key] * scale, digits)) for c in (one, other)]
        ratio = Cell(f"× {other[key] / one[key]:.2f}") if one and other and one[key] else Cell("–")
        lines.append(Line(name, meaning, sides[0], sides[1], ratio))
    return lines


def checks(found: Comparison) -> list[tuple[str, str]]:
    """The tests behind the word, a line each."""
    rows = []
    for name, own in found.contrasts.items():
        by = f", by {READINGS[name]}" if len(found.contrasts) > 1 else ""
        rows.append((f"pairs gained and lost{by}", f"{own.up:,} and {own.down:,} of {found.pairs:,}"))
        if own.bootstrap.low is not None and own.bootstrap.high is not None:
            interval = f"{points(own.bootstrap.low)} to {points(own.bootstrap.high)} points"
            rows.append((f"bootstrap by prompt family{by}", interval))
        p = (
            "does not apply: ties, or prompts with several pairs"
            if own.mcnemar_p is None
            else f"p = {own.mcnemar_p:.3g}"
        )
        rows.append((f"McNemar, exact{by}", p))
        if own.detectable is not None:
            rows.append((f"smallest difference that shows{by}", f"{own.detectable * 100:.1f} points in 4 of 5 cases"))
        if own.more_pairs is not None:
            rows.append((f"more pairs needed{by}", f"about {own.more_pairs:,} for a difference of this size"))
    return rows


def panels(told: Told) -> list[Panel]:
    """The change by slice, the gaps, and the lengths of replies."""
    found = told.comparison
    made = [panel for name in found.slices if (panel := slice_panel(name, found.slices[name])) is not None]
    made.append(gap_panel(found.baseline.pairs, found.candidate.pairs))
    before, after = told.replies
    if before is not None and after is not None:
        made.append(length_panel(before, after))
    return made


def slice_panel(name: str, by_value: Mapping[str, Figure]) -> Panel | None:
    """Change of accuracy in each value of a slice, the largest first where there are many."""
    kept = {value: figure for value, figure in by_value.items() if figure.n}
    if len(kept) < 2:
        return None
    if len(kept) > _MOST_SLICES:
        kept = dict(sorted(kept.items(), key=lambda item: -item[1].n)[:_MOST_SLICES])
    rows = [Row(NAMES.get(value, value), (("after", figure),)) for value, figure in kept.items()]
    bounds = [b for f in kept.values() for b in (f.low, f.high) if b is not None]
    x = axis_over([*bounds, 0.0], LABEL_WIDTH, WIDTH - RIGHT)
    title = f"Change by {name.replace('_', ' ')}"
    words = "; ".join(f"{row.label} {row.figures[0][1].words(percent=True, digits=1)}" for row in rows)
    few = f" The {_MOST_SLICES} largest of {len(by_value)}." if len(by_value) > _MOST_SLICES else ""
    caption = f"Candidate minus baseline in percentage points.{few} Slices are many and small: one alone proves little."
    return Panel(title, interval_chart(rows, x, _whole, 0.0, f"{title}: {words}"), caption)


def _whole(value: float) -> str:
    return points(value).removesuffix(".0")


def cases(told: Told) -> list[Case]:
    """Pairs that one of the two alone gets right, by place."""
    found = told.comparison
    known = {(pair.row, pair.id): pair for pair in told.texts}
    keys = list(zip(found.baseline.pairs.row_B.tolist(), found.baseline.pairs.id_B))
    if not all(key in known for key in keys):
        return []
    gaps = found.baseline.pairs.mean_gap_B, found.candidate.pairs.mean_gap_B
    made = []
    for right, places in zip((found.candidate.name, found.baseline.name), disagreements(found, _EXAMPLES)):
        for place in places:
            pair = known[keys[place]]
            texts = (pair.prompt[-1].content, pair.chosen, pair.rejected)
            prompt, chosen, rejected = (shown(text, told.redacted) for text in texts)
            one, other = (signed(float(gap[place]), 2) for gap in gaps)
            made.append(Case(right, prompt, chosen, rejected, (one, other)))
    return made
