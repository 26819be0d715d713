"""Columns of the raw rows beside the preference itself, for slicing figures by whatever a team has recorded."""

from collections import Counter
from collections.abc import Sequence

from evenhand.data.sources import source_rows
from evenhand.errors import DataError

_MOST_VALUES = 30
_QUARTERS = ("lowest quarter", "second quarter", "third quarter", "highest quarter")


def column_values(source: str, names: Sequence[str], rows: Sequence[int]) -> dict[str, tuple[str | None, ...]]:
    """For each column its value in each of `rows` (0-based), as text; None where a row has none.

    A column of numbers with many values is cut into quarters. Raises DataError for a column that no row has, or of
    texts with more than 30 values.
    """
    found: dict[str, dict[int, object]] = {name: {} for name in names}
    seen: Counter[str] = Counter()
    for place, row in enumerate(source_rows(source, Counter())):
        for key in row.fields or {}:
            seen[key] += 1
        for name in names:
            if row.fields is not None and row.fields.get(name) is not None:
                found[name][place] = row.fields[name]
    for name in names:
        if not found[name]:
            raise DataError(f"{source}: no row has a column `{name}`; there are {', '.join(sorted(seen)[:20])}.")
    grouped = {name: _as_groups(source, name, values) for name, values in found.items()}
    return {name: tuple(by_row.get(row) for row in rows) for name, by_row in grouped.items()}


def _as_groups(source: str, name: str, values: dict[int, object]) -> dict[int, str]:
    if len({str(value) for value in values.values()}) <= _MOST_VALUES:
        return {place: str(value) for place, value in values.items()}
    numbers = {p: float(v) for p, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    if len(numbers) < len(values):
        raise DataError(
            f"{source}: the column `{name}` has more than {_MOST_VALUES} values that are not all numbers; slice by "
            "a column of groups."
        )
    ordered = sorted(numbers.values())
    cuts = [ordered[len(ordered) * quarter // 4] for quarter in (1, 2, 3)]
    return {place: _QUARTERS[sum(number >= cut for cut in cuts)] for place, number in numbers.items()}
