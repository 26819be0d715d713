"""The page of an audit: one HTML file that needs no network and no script, and the same figures as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from markupsafe import Markup, escape

from evenhand.data.appraise import Appraisal
from evenhand.data.audit import Audit
from evenhand.data.bench import CurationRules
from evenhand.data.bias import share
from evenhand.data.curate import Curation, curate
from evenhand.data.findings import Finding
from evenhand.data.items import Ballot
from evenhand.evaluation.chart import (
    LABEL_WIDTH,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Panel,
    Row,
    Scales,
    interval_chart,
    line_chart,
    svg,
    text,
)
from evenhand.evaluation.html import page
from evenhand.figure import Figure
from evenhand.files import write_json, write_whole

_BINS = 10
_MOST_ANNOTATORS = 12
_MOST_CATEGORIES = 10
_STEP_HEIGHT = 34
_ORDER = {"severe": 0, "warning": 1, "info": 2}
_FEATURE_NAMES = {"list": "Has a list", "markdown": "Has markdown", "apology": "Apologises", "refusal": "Refuses"}


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the flow of rows: what is left after it, and what it dropped."""

    name: str
    left: int
    dropped: int


def write_audit_page(path: Path, found: Appraisal) -> None:
    """Write the page to `path` and its JSON beside it, each whole or not at all."""
    write_json(path.with_suffix(".json"), found.json())
    write_whole(path, audit_page(found))


def audit_page(found: Appraisal) -> str:
    """The page as one HTML text; all text from outside is escaped."""
    findings = sorted(found.findings, key=lambda finding: (_ORDER[finding.severity], -finding.count))
    return page(
        "audit.html.j2",
        name=Path(found.reading.source).name,
        title=_title(findings),
        word="worse" if found.severe else "undecided" if findings else "better",
        reading=found.reading,
        findings=[(finding, finding.json()) for finding in findings],
        flow=flow_chart(flow(found)),
        panels=[] if found.audit is None else _panels(found, found.audit),
        figures=[]
        if found.audit is None
        else [(name.replace("_", " "), own) for name, own in found.audit.figures.items()],
    )


def flow(found: Appraisal) -> list[Step]:
    """What becomes of the rows: refused when read, then, of the judgments behind the rest, dropped by each rule."""
    reading = found.reading
    steps = [Step("rows read", reading.rows_in, 0), Step("refused", reading.rows_used, len(reading.refusals))]
    if found.audit is None:
        return steps
    curation: Curation = curate(reading, CurationRules(), found.facts)
    left = len(curation.ledger)
    steps.append(Step("judgments", left, 0))
    for name, count in curation.counts["dropped"].items():
        left -= count
        steps.append(Step(name.replace("_", " "), left, count))
    steps.append(Step("pairs", len(curation.pairs), 0))
    return steps


def flow_chart(steps: Sequence[Step]) -> Markup:
    """A bar a step: what is left, and beside it what the step dropped."""
    most = max(1, max(step.left + step.dropped for step in steps))
    axis = Axis(0.0, float(most), LABEL_WIDTH, WIDTH - RIGHT - 92)
    parts = []
    for at, step in enumerate(steps):
        top = TOP - 24 + at * _STEP_HEIGHT
        start, end, lost = axis.place(0), axis.place(step.left), axis.place(step.left + step.dropped)
        parts.append(text(2, top + 17, step.name, "row-label"))
        parts.append(
            f'<rect class="bar left" x="{start:g}" y="{top:g}" width="{max(0.5, end - start):g}" height="22"/>'
        )
        if step.dropped:
            parts.append(
                f'<rect class="bar lost" x="{end:g}" y="{top:g}" width="{max(1.5, lost - end):g}" height="22"/>'
            )
        told = f"{step.left:,}" + (f" (−{step.dropped:,})" if step.dropped else "")
        parts.append(text(lost + 6, top + 16, told, "tick"))
    words = "; ".join(f"{step.name}: {step.left} left, {step.dropped} dropped" for step in steps)
    return svg("".join(parts), f"Flow of rows: {words}", TOP - 20 + len(steps) * _STEP_HEIGHT)


def matrix_chart(names: Sequence[str], kappas: Mapping[tuple[str, str], Figure]) -> Markup:
    """A square a pair of annotators, darker for a higher kappa; empty where they shared nothing."""
    side = (WIDTH - LABEL_WIDTH - RIGHT) / len(names)
    parts = []
    for row, name in enumerate(names):
        top = TOP + row * side
        parts.append(text(2, top + side / 2 + 4, f"{row + 1} {name}"[:20], "row-label"))
        parts.append(text(LABEL_WIDTH + (row + 0.5) * side, TOP - 8, str(row + 1), "tick", "middle"))
        for column, other in enumerate(names):
            figure = kappas.get((name, other))
            if figure is not None and figure.value is not None:
                parts.append(_square(LABEL_WIDTH + column * side, top, side, f"{name} and {other}", figure))
    return svg("".join(parts), "Cohen's kappa of each two annotators", TOP + len(names) * side + 6)


def _square(left: float, top: float, side: float, name: str, figure: Figure) -> str:
    assert figure.value is not None
    words = escape(f"{name}: kappa {figure.words(digits=2)}")
    shown = text(left + side / 2, top + side / 2 + 4, f"{figure.value:.2f}".replace("-", "−"), "tick", "middle")
    depth = max(0.04, min(1.0, figure.value)) * 0.7
    return (
        f'<g><title>{words}</title><rect class="bar left" x="{left:g}" y="{top:g}" width="{side - 2:g}" '
        f'height="{side - 2:g}" style="fill-opacity:{depth:.2f}"/>{shown if side > 28 else ""}</g>'
    )


def length_panel(ballots: Sequence[Ballot]) -> Panel | None:
    """How often answer a wins, by how much longer it is than answer b; None where hardly anything was decided."""
    decided = [own for own in ballots if own.verdict != "tie" and own.length_a != own.length_b]
    if len(decided) < 2 * _BINS:
        return None
    # Both orders of each judgment, so that it does not matter which answer was written as a.
    ratio = np.log2([(1 + own.length_a) / (1 + own.length_b) for own in decided])
    longer = np.abs(ratio)
    won = np.array([(own.verdict == "a") == (own.length_a > own.length_b) for own in decided])
    edges = np.quantile(longer, np.linspace(0, 1, _BINS + 1))
    marks = []
    for low, high in pairwise(edges.tolist()):
        inside = (longer >= low) & ((longer < high) | (high == edges[-1]))
        if inside.any():
            marks.append((float(np.median(longer[inside])), share(int(won[inside].sum()), int(inside.sum()))))
    scales = Scales("times as long as the other answer", "longer answer wins", _times, lambda value: f"{value:.0%}")
    chart = line_chart([], marks, scales, "How often the longer answer wins, by how much longer it is")
    return Panel(
        "Length against choice",
        chart,
        "Each dot is a tenth of the judgments. Dots that rise to the right mean that the label can be told from length.",
    )


def _times(value: float) -> str:
    return f"{2.0**value:.2g}×"


def _panels(found: Appraisal, audit: Audit) -> list[Panel]:
    panels = [length_panel(found.facts.ballots), _feature_panel(audit), _annotator_panel(audit), _matrix_panel(audit)]
    return [
        panel
        for panel in (*panels, _duplicate_panel(found.findings, found.reading.rows_in), _category_panel(audit))
        if panel
    ]


def _shares(rows: Sequence[Row], reference: float, description: str) -> Markup:
    axis = Axis(0.0, 1.0, LABEL_WIDTH, WIDTH - RIGHT)
    return interval_chart(rows, axis, lambda value: f"{value:.0%}", reference, description)


def _feature_panel(audit: Audit) -> Panel | None:
    named = audit.features | {
        "longer": audit.figures["longer_is_chosen"],
        "shown first": audit.figures["first_shown_is_chosen"],
    }
    names = _FEATURE_NAMES | {"longer": "Is longer", "shown first": "Was shown first"}
    rows = [Row(names[name], [("after", figure)]) for name, figure in named.items() if figure.n]
    if not rows:
        return None
    chart = _shares(rows, 0.5, "How often the answer that has a feature wins over the one that has it not")
    return Panel(
        "What wins without being read", chart, "An answer with the feature against one without it. 50 % tells nothing."
    )


def _annotator_panel(audit: Audit) -> Panel | None:
    largest = sorted(audit.annotators, key=lambda own: -own.judgments)[:_MOST_ANNOTATORS]
    rows = [
        Row(own.name[:18], [("after", own.takes_longer), ("before", own.takes_first)])
        for own in largest
        if own.takes_longer.n or own.takes_first.n
    ]
    if not rows:
        return None
    chart = _shares(rows, 0.5, "How often each annotator takes the longer answer, and the one shown first")
    legend = (("after", "takes the longer answer"), ("before", "takes the one shown first"))
    return Panel("Annotators", chart, "One who stands far from the others judges by a habit.", legend)


def _matrix_panel(audit: Audit) -> Panel | None:
    names = [own.name for own in audit.agreements[:_MOST_ANNOTATORS]]
    kappas = {(own.name, other): figure for own in audit.agreements for other, figure in own.with_others.items()}
    if not any(kappas.get((one, other)) for one in names for other in names):
        return None
    alpha = audit.figures["krippendorff_alpha"].words()
    return Panel(
        "Agreement", matrix_chart(names, kappas), f"Cohen's kappa of each two; Krippendorff's alpha of all {alpha}."
    )


def _duplicate_panel(findings: Sequence[Finding], rows: int) -> Panel | None:
    wanted = {
        "exact_duplicate": "Exact copies",
        "near_duplicate": "Near copies",
        "identical_answers": "Equal answers",
        "near_tie": "Nearly equal",
    }
    found = {finding.id: finding.count for finding in findings}
    bars = [Row(name, [("after", share(found.get(key, 0), rows))]) for key, name in wanted.items()]
    top = max(0.01, *(figure.high or 0.0 for row in bars for _, figure in row.figures)) * 1.1
    axis = Axis(0.0, top, LABEL_WIDTH, WIDTH - RIGHT)
    chart = interval_chart(
        bars, axis, lambda value: f"{value:.1%}", 0.0, "Share of rows that repeat others, or whose answers do"
    )
    return Panel("Duplicates", chart, "Share of all rows that a rule would drop.")


def _category_panel(audit: Audit) -> Panel | None:
    rows = [Row(own.name[:18], [("after", own.longer_is_chosen)]) for own in audit.categories[:_MOST_CATEGORIES]]
    if len(rows) < 2:
        return None
    return Panel(
        "Length by category",
        _shares(rows, 0.5, "How often the longer answer wins in each category"),
        "The largest categories.",
    )


def _title(findings: Sequence[Finding]) -> str:
    severe = sum(finding.severity == "severe" for finding in findings)
    if severe:
        return f"{severe} severe finding{'s' if severe > 1 else ''}"
    return f"{len(findings)} findings, none severe" if findings else "Nothing was found"
