"""One figure as the tables of pages show it: a value in words with its interval and count beneath."""

from dataclasses import dataclass

from evenhand.evaluation.verdict import points
from evenhand.figure import Figure


@dataclass(frozen=True, slots=True)
class Cell:
    """A value in words, with its interval and count beneath."""

    value: str
    interval: str = ""
    count: str = ""


def cell(figure: Figure, shares: bool, digits: int = 0) -> Cell:
    """A figure for the table: shares in percent with one decimal, other values with `digits`."""
    if figure.value is None:
        return Cell("not measured", "", f"n = {figure.n:,}")
    scale, digits = (100.0, 1) if shares else (1.0, digits)
    low, high = (None if bound is None else signed(bound * scale, digits) for bound in (figure.low, figure.high))
    interval = f"{low} to {high}" if low is not None and high is not None else ""
    return Cell(signed(figure.value * scale, digits) + (" %" if shares else ""), interval, f"n = {figure.n:,}")


def change(figure: Figure | None) -> Cell:
    """A difference of shares in points for the table; a dash where none was measured."""
    if figure is None or figure.value is None:
        return Cell("–")
    bounds = (
        f"{points(figure.low)} to {points(figure.high)}" if figure.low is not None and figure.high is not None else ""
    )
    return Cell(points(figure.value), bounds, f"n = {figure.n:,}")


def signed(value: float, digits: int) -> str:
    """A number with a true minus sign.

    >>> signed(-0.3412, 2)
    '−0.34'
    """
    return f"{value:,.{digits}f}".replace("-", "−")
