"""From a file of judgments to a snapshot on disk: read, measure, audit, curate, split, write."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evenhand.data.audit import Audit, audit
from evenhand.data.bench import CurationRules, Encode
from evenhand.data.case import AuditOptions
from evenhand.data.curate import Curation, curate
from evenhand.data.facts import Facts, Tell, facts_of, silent
from evenhand.data.measure import Map
from evenhand.data.read import describe, read_judgments
from evenhand.data.schema import Reading
from evenhand.data.snapshot import Parents, Source, write_snapshot
from evenhand.data.split import split
from evenhand.files import sha256_file

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """How data is to be curated: `validation` is the share held out, `licence` and `origin` what the card says.

    `encode` counts tokens where the rules limit them; `run` is where texts are measured, `map` for this process;
    `tell` hears of progress.
    """

    validation: float = 0.1
    seed: int = 0
    kind: str | None = None
    rules: CurationRules = field(default_factory=CurationRules)
    licence: str | None = None
    origin: str | None = None
    encode: Encode | None = None
    run: Map = map
    tell: Tell = silent


def prepare(data: str, folder: Path, wanted: Wanted, say: Say) -> dict[str, Any]:
    """Write the snapshot of `data` into `folder` and return its dataset.json.

    Raises DataError where nothing usable is left or `folder` holds something else.
    """
    reading, facts = read_and_measure(data, wanted.kind, (wanted.run, wanted.tell), say)
    curation = curate(reading, wanted.rules, facts, wanted.encode)
    dropped = ", ".join(f"{name} {count}" for name, count in curation.counts.items())
    say(f"curated: {len(curation.pairs)} pairs ({dropped})")
    parts = split(curation.pairs, wanted.validation, wanted.seed)
    say(f"split by prompt family: {len(parts.train)} pairs to train on, {len(parts.validation)} held out")
    parents = Parents(sources_of(data, reading), wanted.licence, wanted.origin)
    return write_snapshot(folder, parts, curation, _audited(reading, facts, curation), parents)


def read_and_measure(data: str, kind: str | None, means: tuple[Map, Tell], say: Say) -> tuple[Reading, Facts]:
    """The judgments of `data` and what was measured of their texts, by `means`; says what was read."""
    reading = read_judgments(data, kind)
    for sentence in (describe(reading), *reading.notes):
        say(sentence)
    return reading, facts_of(reading.judgments, *means)


def sources_of(data: str, reading: Reading) -> tuple[Source, ...]:
    """The files behind a source with their hashes; none for a data set on a hub."""
    path = Path(data)
    files = [path] if path.is_file() else sorted(own for own in path.glob("*") if own.is_file())
    return tuple(Source(own.name, sha256_file(own), reading.kind, reading.rows_in) for own in files)


def _audited(reading: Reading, facts: Facts, curation: Curation) -> Audit:
    return audit(reading, AuditOptions(rules=curation.rules), facts)
