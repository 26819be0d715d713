"""A script's data sets as tokens: a data set of `datasets`, rows, pairs or a file, every row used or refused."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evenhand.data.majority import majority_pairs
from evenhand.data.read import describe, read_judgments, read_rows
from evenhand.data.schema import PreferencePair, Refusal
from evenhand.errors import DataError
from evenhand.model.encode import EncodedPair, require_pairs
from evenhand.model.workshop import Workshop

Rows = Iterable[Mapping[str, Any]] | Sequence[PreferencePair] | str | Path


@dataclass(frozen=True, slots=True)
class Held:
    """A data set as tokens, and what was refused of it."""

    encoded: Sequence[EncodedPair]
    refusals: tuple[Refusal, ...]


def hold(rows: Rows, name: str, workshop: Workshop) -> Held:
    """The data set as tokens; what is refused is said on standard error and kept. `name` is the argument's.

    Raises DataError for one that is streamed, several in one, or without a usable row.
    """
    pairs, refusals = _pairs_of(rows, name)
    encoding = workshop.encode(pairs, name, name)
    if encoding.refusals:
        first = encoding.refusals[0]
        sys.stderr.write(
            f"{name}: {len(encoding.refusals)} of {len(pairs)} pairs refused, the first is row {first.row}: "
            f"{first.reason}, {first.detail}\n"
        )
    return Held(require_pairs(encoding, name), refusals + encoding.refusals)


def _pairs_of(rows: Rows, name: str) -> tuple[Sequence[PreferencePair], tuple[Refusal, ...]]:
    """The pairs in a data set, rows, pairs or a file, and its refusals, which are said."""
    if isinstance(rows, (str, Path)):
        reading = read_judgments(rows)
    elif not hasattr(rows, "__len__"):
        raise DataError(
            f"`{name}` has no length; a run is planned over all its pairs: give a data set that is not streamed."
        )
    elif isinstance(rows, dict):
        raise DataError(
            f"`{name}` is several data sets ({', '.join(map(str, rows))}); give one, and evaluate() the others."
        )
    else:
        given: list[Any] = list(rows)
        if given and isinstance(given[0], PreferencePair):
            return given, ()
        reading = read_rows(given, name)
    if reading.refusals:
        sys.stderr.write(f"{name}: {describe(reading)}\n")
    return majority_pairs(reading.judgments), reading.refusals
