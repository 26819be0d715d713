"""What is wrong with a set of judgments: the checks' findings, with the figures and annotators behind them."""

from dataclasses import dataclass
from typing import Any

from evenhand.data.agreement import AnnotatorAgreement, annotator_agreements, shared_ratings
from evenhand.data.bias import Annotator, annotator_figures
from evenhand.data.case import AuditOptions, Case, Evidence, case_of
from evenhand.data.checks import CHECKS, WITHOUT_ROWS
from evenhand.data.consensus import Consensus, consensus
from evenhand.data.facts import Facts, facts_of
from evenhand.data.findings import Finding, shown
from evenhand.data.items import prompt_text
from evenhand.data.leaning import CategoryFigures, category_figures, feature_figures
from evenhand.data.schema import Reading
from evenhand.figure import Figure

_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Audit:
    """The findings with the figures and annotators behind them; `rows_in` is `rows_used` plus the refused rows."""

    rows_in: int
    rows_used: int
    refused: dict[str, int]
    findings: tuple[Finding, ...]
    figures: dict[str, Figure]
    annotators: tuple[Annotator, ...]
    categories: tuple[CategoryFigures, ...]
    features: dict[str, Figure]
    agreements: tuple[AnnotatorAgreement, ...]
    consensus: Consensus
    notes: tuple[str, ...]

    @property
    def severe(self) -> bool:
        """Whether any finding is severe."""
        return any(finding.severity == "severe" for finding in self.findings)

    def json(self) -> dict[str, Any]:
        """The shape of `evenhand audit --json`."""
        return {
            "rows_in": self.rows_in,
            "rows_used": self.rows_used,
            "refused": self.refused,
            "findings": [finding.json() for finding in self.findings],
            "figures": {name: figure.json() for name, figure in self.figures.items()},
            "annotators": [annotator.json() for annotator in self.annotators],
            "categories": [category.json() for category in self.categories],
            "agreement_by_annotator": [own.json() for own in self.agreements],
            "consensus": self.consensus.json(),
            "features": {name: figure.json() for name, figure in self.features.items()},
            "notes": list(self.notes),
        }


def audit(reading: Reading, options: AuditOptions | None = None, facts: Facts | None = None) -> Audit:
    """Run every check of CHECKS on `reading`; a finding is reported where a check has evidence.

    Nothing is changed or dropped. Counts are input rows; the checks are independent, so that one row may count twice.
    `facts` are those of the reading where they are known already.
    """
    facts = facts or facts_of(reading.judgments)
    ratings = shared_ratings(facts.ballots, facts.same)
    case = case_of(reading, facts, options or AuditOptions())
    found = ((name, check(case)) for name, check in CHECKS)
    findings = tuple(_finding(case, name, evidence) for name, evidence in found if evidence is not None)
    return Audit(
        rows_in=reading.rows_in,
        rows_used=reading.rows_used,
        refused=reading.refused,
        findings=tuple(finding for finding in findings if finding.rows or finding.id in WITHOUT_ROWS),
        figures=case.figures,
        annotators=annotator_figures(case.bench.ballots, case.bench.same, case.bench.named),
        categories=category_figures(case.bench.ballots, case.bench.same),
        features=feature_figures(facts.ballots, facts.measures.marks_N.tolist()),
        agreements=annotator_agreements(ratings),
        consensus=consensus(ratings),
        notes=reading.notes,
    )


def _finding(case: Case, name: str, evidence: Evidence) -> Finding:
    refused = [own for own in case.reading.refusals if own.reason in evidence.reasons]
    used = sorted(evidence.places, key=lambda at: (case.bench.ballots[at].row, case.bench.ballots[at].id))
    rows = tuple(sorted({case.bench.ballots[at].row for at in used} | {own.row for own in refused}))
    seen = [case.bench.judgment(at) for at in used[:_EXAMPLES]]
    examples = [shown(own.row, own.id, prompt_text(own.prompt)) for own in seen]
    examples += [shown(own.row, str(own.row), own.text) for own in refused[: _EXAMPLES - len(examples)]]
    share_of_rows = len(rows) / case.reading.rows_in if case.reading.rows_in else 0.0
    return Finding(name, evidence.severity, rows, share_of_rows, evidence.detail, tuple(examples))
