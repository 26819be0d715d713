"""Sources to judgments: every row is used or refused with a reason, and the totals add up."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from evenhand.data.contest import judgments_of, settle
from evenhand.data.fields import label, refuse_non_finite_scores
from evenhand.data.kinds import Kind, kind_named, recognise
from evenhand.data.ledger import totals
from evenhand.data.majority import majority_pairs
from evenhand.data.reasons import Unusable
from evenhand.data.rows import Row
from evenhand.data.schema import PreferencePair, Reading, Refusal
from evenhand.data.shelf import Gathering
from evenhand.data.sources import source_rows
from evenhand.errors import DataError

ROWS_LOOKED_AT = 100
HOPELESS_ROWS = 100_000

NOTES = {
    "blank_line": "blank lines skipped: {n}",
    "byte_order_mark": "byte order marks removed: {n}",
    "chosen_scored_equal": "rows that give both answers the same score (chosen_scored_equal), kept: {n}",
    "chosen_scored_lower": "rows that give the chosen answer the lower score (chosen_scored_lower), kept: {n}",
    "crlf": "lines that ended in CR LF, read as LF: {n}",
    "identical_tie": "ties between identical answers, kept as judgments: {n}",
    "invisible_character": "rows with bidirectional, zero-width or C1 control characters, kept: {n}",
    "left_out": "judgments of used rows left out as {reason}: {n}",
    "ranking_places": "rows whose `ranking` was read as each answer's place, the lowest best: {n}",
}


@dataclass(slots=True)
class Intake:
    """What has been read so far of one source, as one kind of row."""

    kind: Kind
    notes: Counter[str]
    rows: int = 0
    judgments: Gathering = field(default_factory=Gathering)
    refusals: list[Refusal] = field(default_factory=list)
    content_of_id: dict[str, str] = field(default_factory=dict)
    copies: Counter[str] = field(default_factory=Counter)

    def take(self, row: Row) -> None:
        """Use the row or refuse it; raises DataError if its id was given to other content before."""
        try:
            self.use(row)
        except Unusable as problem:
            refusal = Refusal(
                row.file, row.line, self.rows, problem.reason, problem.detail, row.beginning(), row.sha256
            )
            self.refusals.append(refusal)
        self.rows += 1

    def use(self, row: Row) -> None:
        """Add the row's judgments; Unusable if it has none."""
        if row.fields is None:
            assert row.problem is not None
            raise row.problem
        refuse_non_finite_scores(row.fields)
        claims = self.kind.read(row.fields)
        settled = settle(row.fields, claims)
        own_id, group = label(row.fields, claims.key), label(row.fields, "group")
        name = self.new_name(settled.content) if own_id is None else self.known_name(row, own_id, settled.content)
        for judgment in judgments_of(settled, self.rows, name, group):
            self.judgments.add(judgment)
        if settled.notes:
            self.notes.update(settled.notes)

    def new_name(self, content: str) -> str:
        """A name for a row without an id: the beginning of its content's hash; a second copy's ends in `~2`."""
        self.copies[content] += 1
        copy = self.copies[content]
        return content[:16] if copy == 1 else f"{content[:16]}~{copy}"

    def known_name(self, row: Row, own_id: str, content: str) -> str:
        """A row's own id; Unusable if the same was read under it before, DataError if something else was."""
        known = self.content_of_id.get(own_id)
        if known is None:
            self.content_of_id[own_id] = content
            return own_id
        if known == content:
            raise Unusable("duplicate_id", f"the id {ascii(own_id)[:80]} was read before with the same content")
        where = f"{row.file}, row {self.rows}" if row.line is None else f"{row.file}:{row.line}"
        raise DataError(
            f"{where}: the id {ascii(own_id)[:80]} was given before to a row with other content; give each row an id "
            "of its own, or call the column `group` if it says which rows belong together."
        )


def read_judgments(source: str | Path, kind: str | None = None) -> Reading:
    """Read a file, a folder of parts, a `datasets` folder or a hub id; the kind of row is recognised or forced.

    A row that cannot be used becomes a Refusal and never stops the reading. Raises DataError if the source cannot be
    read as a whole, its rows are of no known kind, one id names two different rows, or no row can be used
    (of 100,000 or more: not one in a thousand).
    """
    return read_as(source, None if kind is None else kind_named(kind))


def read_as(source: str | Path, forced: Kind | None) -> Reading:
    """Read a source as that kind of row, recognised where it is None; raises DataError where read_judgments does."""
    notes: Counter[str] = Counter()
    return _reading(source_rows(source, notes), str(source), forced, notes)


def read_rows(rows: Iterable[Mapping[str, Any]], name: str) -> Reading:
    """Rows that a program holds, as read_judgments reads a file's; refusals name their row in `name`.

    Raises DataError where read_judgments does.
    """
    return _reading((Row(name, None, b"", dict(fields)) for fields in rows), name, None, Counter())


def _reading(rows: Iterator[Row], source: str, forced: Kind | None, notes: Counter[str]) -> Reading:
    first = list(islice(rows, ROWS_LOOKED_AT))
    intake = Intake(forced or kind_of(first, source), notes)
    for row in chain(first, rows):
        intake.take(row)
        if intake.rows % HOPELESS_ROWS == 0:
            refuse_hopeless(intake, source)
    reading = Reading(
        source=source,
        kind=intake.kind.name,
        rows_in=intake.rows,
        judgments=intake.judgments.finished(),
        refusals=tuple(intake.refusals),
        notes=note_words(notes),
    )
    if not reading.judgments:
        raise DataError(nothing_usable(reading))
    totals(reading)
    return reading


def refuse_hopeless(intake: Intake, source: str) -> None:
    """Raises DataError if not one row in a thousand could be used, so that junk of any size costs little."""
    if 1000 * len(intake.judgments) < intake.rows:
        reasons = Counter(refusal.reason for refusal in intake.refusals)
        raise DataError(
            f"{source}: of the first {intake.rows} rows {len(intake.refusals)} cannot be used as {intake.kind.name}"
            f"{counted(reasons)}; this is no preference data, or another kind must be forced."
        )


def kind_of(rows: Sequence[Row], source: str) -> Kind:
    """The kind of the first rows; raises DataError if none of them could be parsed."""
    parsed = [row.fields for row in rows if row.fields is not None]
    if parsed:
        return recognise(parsed, source)
    problems = Counter(row.problem.reason for row in rows if row.problem is not None)
    raise DataError(f"{source}: no row could be parsed{counted(problems)}; nothing is left to read.")


def nothing_usable(reading: Reading) -> str:
    """The message for a source of which every row was refused."""
    first = reading.refusals[0]
    where = f"{first.file}, row {first.row}" if first.line is None else f"{first.file}:{first.line}"
    return (
        f"{reading.source}: none of {reading.rows_in} rows can be used as {reading.kind}{counted(reading.refused)}; "
        f"the first is {where}: {first.detail}."
    )


def counted(reasons: Mapping[str, int]) -> str:
    """Reasons with their counts in brackets, nothing where there are none."""
    return f" ({', '.join(f'{reason} {count}' for reason, count in reasons.items())})" if reasons else ""


def note_words(notes: Counter[str]) -> tuple[str, ...]:
    """Each counted note in words, in a fixed order."""
    found = sorted((code, count) for code, count in notes.items() if count)
    return tuple(NOTES[code.partition(":")[0]].format(n=count, reason=code.partition(":")[2]) for code, count in found)


def describe(reading: Reading) -> str:
    """What was read, in one line.

    >>> describe(Reading("pairs.jsonl", "hh_rlhf", 3, (), ()))
    'read 3 rows as pairwise (hh_rlhf)'
    """
    form = kind_named(reading.kind).form
    annotators = len({judgment.annotator for judgment in reading.judgments} - {None})
    by = f" with {annotators} annotator{'s' if annotators > 1 else ''}" if annotators else ""
    name = f" ({reading.kind})" if reading.kind != form else ""
    words = f"read {reading.rows_in} row{'s' if reading.rows_in != 1 else ''} as {form}{by}{name}"
    if not reading.refusals:
        return words
    reasons = ", ".join(f"{reason} {count}" for reason, count in reading.refused.items())
    return f"{words}; {len(reading.refusals)} refused: {reasons}"


def read_pairs(source: str | Path, kind: str | None = None) -> tuple[Reading, tuple[PreferencePair, ...]]:
    """Read judgments and keep one pair for each that has a winner: ties are dropped, several verdicts outvoted.

    Raises DataError where read_judgments does, or if no judgment has a winner.
    """
    reading = read_judgments(source, kind)
    pairs = majority_pairs(reading.judgments)
    if not pairs:
        raise DataError(
            f"{source}: none of {len(reading.judgments)} judgments leaves a winner (ties, or verdicts that cancel), "
            "so there is no pair to train on; add judgments with a winner."
        )
    return reading, pairs
