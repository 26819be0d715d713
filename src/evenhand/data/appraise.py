"""One audit from a source to what was found, whether it holds judgments or demonstrations."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from evenhand.data.audit import Audit, audit
from evenhand.data.bench import Encode
from evenhand.data.case import AuditOptions
from evenhand.data.demonstrations import demonstration_findings, demonstration_kind, read_demonstrations
from evenhand.data.facts import Facts, Tell, facts_of, silent
from evenhand.data.findings import Finding
from evenhand.data.measure import Map
from evenhand.data.preparation import read_and_measure
from evenhand.data.prompts import prompt_kind
from evenhand.data.read import read_as
from evenhand.data.schema import Reading


@dataclass(frozen=True, slots=True)
class Asked:
    """What to audit, against which held-out data and token limit, where texts are measured, and who hears of it."""

    data: str
    kind: str | None = None
    held_out: str | None = None
    encode: Encode | None = None
    max_tokens: int | None = None
    run: Map = map
    tell: Tell = silent


@dataclass(frozen=True, slots=True)
class Appraisal:
    """What was read and found; `audit` is None for demonstrations, which nobody chose between."""

    reading: Reading
    facts: Facts
    findings: tuple[Finding, ...]
    audit: Audit | None

    @property
    def severe(self) -> bool:
        """Whether any finding is severe."""
        return any(finding.severity == "severe" for finding in self.findings)

    def json(self) -> dict[str, Any]:
        """The shape of `evenhand audit --json`."""
        about = {"source": self.reading.source, "kind": self.reading.kind}
        if self.audit is not None:
            return about | {"what": "preferences"} | self.audit.json()
        return about | {
            "what": "demonstrations",
            "rows_in": self.reading.rows_in,
            "rows_used": self.reading.rows_used,
            "refused": self.reading.refused,
            "findings": [finding.json() for finding in self.findings],
            "figures": {},
            "notes": list(self.reading.notes),
        }


def appraise(asked: Asked, say: Callable[[str], None]) -> Appraisal:
    """Audit judgments, or demonstrations where the rows hold one reply each; raises DataError for anything else."""
    held_out = None if asked.held_out is None else _held_out(asked.held_out)
    options = AuditOptions(held_out=held_out, encode=asked.encode, max_tokens=asked.max_tokens)
    if asked.kind is None and (kind := demonstration_kind(asked.data)) is not None:
        reading = read_demonstrations(asked.data, kind)
        say(f"read {reading.rows_in} rows as demonstrations ({kind.name}); {len(reading.refusals)} refused")
        facts = facts_of(reading.judgments, asked.run, asked.tell)
        return Appraisal(reading, facts, demonstration_findings(reading, facts, options), None)
    reading, facts = read_and_measure(asked.data, asked.kind, (asked.run, asked.tell), say)
    found = audit(reading, options, facts)
    return Appraisal(reading, facts, found.findings, found)


def _held_out(source: str) -> Reading:
    """Judgments, demonstrations or prompts alone, of which only the prompts are looked at."""
    return read_as(source, demonstration_kind(source) or prompt_kind(source))
