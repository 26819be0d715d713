"""From a file of judgments to a snapshot on disk: read, audit, curate, split, write."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from evenhand.data.audit import audit
from evenhand.data.checks import AuditOptions
from evenhand.data.curate import curate
from evenhand.data.facts import facts_of
from evenhand.data.read import describe, read_judgments
from evenhand.data.rules import CurationRules
from evenhand.data.snapshot import Parents, Source, write_snapshot
from evenhand.data.split import split
from evenhand.files import sha256_file


def prepare(
    data: str, folder: Path, parting: tuple[float, int], kind: str | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """Write the snapshot of `data` into `folder` and return its dataset.json; `parting` is (validation share, seed).

    Raises DataError where nothing usable is left or `folder` holds something else.
    """
    reading = read_judgments(data, kind)
    for sentence in (describe(reading), *reading.notes):
        say(sentence)
    rules = CurationRules()
    facts = facts_of(reading.judgments)
    curation = curate(reading, rules, facts)
    dropped = ", ".join(f"{name} {count}" for name, count in curation.counts.items())
    say(f"curated: {len(curation.pairs)} pairs ({dropped})")
    parts = split(curation.pairs, *parting)
    say(f"split by prompt family: {len(parts.train)} pairs to train on, {len(parts.validation)} held out")
    path = Path(data)
    sources = (Source(path.name, sha256_file(path), reading.kind, reading.rows_in),) if path.is_file() else ()
    return write_snapshot(folder, parts, curation, audit(reading, AuditOptions(rules=rules), facts), Parents(sources))
