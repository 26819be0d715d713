"""Answers without a rival: demonstrations, and replies with a thumb up or down, read as pairs that lack a side."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

from evenhand.data.contest import Claims, Contest
from evenhand.data.demonstrations import DEMONSTRATIONS
from evenhand.data.fields import Fields, present, type_name
from evenhand.data.kinds import KINDS, Kind
from evenhand.data.lines import Notes
from evenhand.data.read import ROWS_LOOKED_AT, counted, read_as
from evenhand.data.reasons import Unusable
from evenhand.data.schema import Judgment, PreferencePair, Reading
from evenhand.data.sources import source_rows

LABEL = "label"


def _read_vote(kind: Kind) -> Callable[[Fields], Claims]:
    """As the demonstration it also is, with its thumb as the verdict: `b` for down."""

    def read(fields: Fields) -> Claims:
        liked = present(fields, LABEL)
        if not isinstance(liked, bool):
            raise Unusable("wrong_type", f"`{LABEL}` is {type_name(liked)}, not true or false")
        claims = kind.read(fields)
        (reply,) = (one.answer_a for one in claims.contests if isinstance(one, Contest))
        return replace(claims, contests=(Contest(reply, reply, "a" if liked else "b"),))

    return read


# TRL's unpaired preferences (prompt, completion, label), and conversations with a label.
VOTES = tuple(
    Kind(f"{kind.name}_{LABEL}", "votes", {**kind.columns, LABEL: (bool,)}, _read_vote(kind)) for kind in DEMONSTRATIONS
)


def answer_kind(source: str | Path) -> Kind | None:
    """The kind of answers that a source holds, votes before demonstrations; None where its rows are judgments or nothing
    known."""
    parsed = [row.fields for row in islice(source_rows(source, Notes()), ROWS_LOOKED_AT) if row.fields is not None]
    if any(kind.fits(fields) for fields in parsed for kind in KINDS):
        return None
    found = Counter(kind.name for fields in parsed for kind in (*VOTES, *DEMONSTRATIONS) if kind.fits(fields))
    return next((kind for kind in (*VOTES, *DEMONSTRATIONS) if kind.name in found), None)


def read_answers(source: str | Path, kind: Kind) -> tuple[Reading, tuple[PreferencePair, ...]]:
    """Read answers of that kind; a liked one is a pair without a rejected side, a disliked one a pair without a chosen.

    Raises DataError where read_judgments does.
    """
    reading = read_as(source, kind)
    return reading, tuple(map(_one_sided, reading.judgments))


def _one_sided(judgment: Judgment) -> PreferencePair:
    liked = judgment.verdict == "a"
    return PreferencePair(
        id=judgment.id,
        row=judgment.row,
        group=judgment.group,
        prompt=judgment.prompt,
        chosen=judgment.answer_a if liked else "",
        rejected="" if liked else judgment.answer_a,
        category=judgment.category,
        family=judgment.family,
        lacks="rejected" if liked else "chosen",
    )


def describe_answers(reading: Reading, kind: Kind) -> str:
    """What was read, in one line."""
    liked = sum(judgment.verdict == "a" for judgment in reading.judgments)
    thumbs = f": {liked} liked, {len(reading.judgments) - liked} not" if kind in VOTES else ""
    refused = f"; {len(reading.refusals)} refused{counted(reading.refused)}" if reading.refusals else ""
    return f"read {reading.rows_in} rows as {kind.form} ({kind.name}){thumbs}{refused}"
