"""The ledger of refused rows, and the totals of a reading, which must add up."""

import json
from collections import Counter
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
    rows = Counter(refusal.row for refusal in reading.refusals)
    rows.update({judgment.row for judgment in reading.judgments})
    assert rows == Counter(range(reading.rows_in)), f"{rows.total()} of {reading.rows_in} rows are accounted for"
    return {"rows_in": reading.rows_in, "rows_used": reading.rows_used, "refused": reading.refused}
