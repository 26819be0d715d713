"""A measured number with the count it rests on and its 95 % interval."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Standard deviations of a normal that hold 95 %.
Z = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Figure:
    """`value` from `n` items; `low` to `high` is the 95 % interval; None where it does not apply.

    >>> Figure(0.75, 4, 0.30, 0.95).json()
    {'value': 0.75, 'n': 4, 'low': 0.3, 'high': 0.95}
    """

    value: float | None
    n: int
    low: float | None = None
    high: float | None = None

    def json(self) -> dict[str, float | int | None]:
        """The shape in which every report and `--json` output states a figure."""
        return {"value": self.value, "n": self.n, "low": self.low, "high": self.high}

    def within(self, least: float, most: float = float("inf")) -> "Figure":
        """The same with an interval that ends where values end: a share lies within 0 and 1, its difference within -1 and 1.

        >>> Figure(0.9, 4, 0.70, 1.1).within(0.0, 1.0)
        Figure(value=0.9, n=4, low=0.7, high=1.0)
        """
        if self.low is None or self.high is None:
            return self
        return Figure(self.value, self.n, max(least, self.low), min(most, self.high))

    def words(self, percent: bool = False, digits: int = 3) -> str:
        """For a person: `0.750 [0.300, 0.950] n=4`, or in percent.

        >>> Figure(0.75, 4, 0.30, 0.95).words(percent=True, digits=1)
        '75.0 % [30.0, 95.0] n=4'
        >>> Figure(None, 0).words()
        'not measured (n=0)'
        """
        if self.value is None:
            return f"not measured (n={self.n})"
        scale, unit = (100.0, " %") if percent else (1.0, "")
        text = f"{self.value * scale:.{digits}f}{unit}"
        if self.low is not None and self.high is not None:
            text += f" [{self.low * scale:.{digits}f}, {self.high * scale:.{digits}f}]"
        return f"{text} n={self.n}"


def figure(value: Mapping[str, Any]) -> Figure:
    """A figure back from its JSON.

    >>> figure(Figure(0.75, 4, 0.30, 0.95).json())
    Figure(value=0.75, n=4, low=0.3, high=0.95)
    """
    return Figure(value["value"], value["n"], value["low"], value["high"])
