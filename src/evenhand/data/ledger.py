"""The ledger of refused rows, and the totals of a reading, which must add up."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evenhand.data.schema import Reading, Refusal
from evenhand.errors import DataError
from evenhand.files import write_whole


def write_refusals(path: str | Path, refusals: Sequence[Refusal]) -> None:
    """Write one JSON object a refused row, whole or not at all; no refusals leave an empty file.

    All but ASCII is escaped, so that a terminal or an editor shows what hides in a refused text.
    """
    lines = (json.dumps(refusal.json(), ensure_ascii=True, allow_nan=False) + "\n" for refusal in refusals)
    write_whole(Path(path), "".join(lines))


def read_refusals(path: str | Path) -> tuple[Refusal, ...]:
    """The refusals that `write_refusals` wrote; raises DataError if the file holds something else."""
    try:
        return tuple(Refusal(**json.loads(line)) for line in Path(path).read_text("utf-8").splitlines())
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: this is no ledger of refused rows ({error}); write it again.") from error


def totals(reading: Reading) -> dict[str, Any]:
    """`rows_in`, `rows_used` and `refused` {reason: count}; no row is in two places or in none."""
    used, refused = bytearray(reading.rows_in), bytearray(reading.rows_in)
    for judgment in reading.judgments:
        used[judgment.row] = 1
    for refusal in reading.refusals:
        refused[refusal.row] += 1
    lost = [row for row, both in enumerate(zip(used, refused)) if sum(both) != 1]
    assert not lost, f"rows {lost[:5]} of {reading.rows_in} are in two places or in none"
    return {"rows_in": reading.rows_in, "rows_used": sum(used), "refused": reading.refused}
