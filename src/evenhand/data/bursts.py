"""Bursts: days on which one annotator gave most of several annotators' judgments."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

_BUSY_DAY = 30


@dataclass(frozen=True, slots=True)
class Burst:
    """`hand` gave `count` of the `total` judgments of `day`, and the share `usual` of all judgments."""

    hand: str
    day: str
    count: int
    total: int
    usual: float

    def words(self) -> str:
        """The burst as a finding states it."""
        return f"{self.hand} gave {self.count} of {self.total} on {self.day}, {self.usual:.1%} of all"

    def holds(self, hand: str | None, time: str | None) -> bool:
        """Whether a judgment by `hand` at `time` (ISO) is part of it."""
        return hand == self.hand and time is not None and day_of(time) == self.day


def day_of(time: str) -> str:
    """The day of an ISO time.

    >>> day_of("2026-11-25T08:00:00Z")
    '2026-11-25'
    """
    return time[:10]


def bursts(given: Iterable[tuple[str | None, str | None]]) -> tuple[Burst, ...]:
    """The bursts among judgments given as (hand, ISO time), by day; those without a hand have no part in it.

    A day counts with 30 judgments or more by three hands or more, when one of them gave over half, and over three times
    that one's share of all.
    """
    everything: Counter[str] = Counter()
    days: dict[str, Counter[str]] = defaultdict(Counter)
    for hand, time in given:
        if hand is not None:
            everything[hand] += 1
            if time is not None:
                days[day_of(time)][hand] += 1
    found = []
    for day, who in sorted(days.items()):
        (name, count), total = who.most_common(1)[0], who.total()
        usual = everything[name] / everything.total()
        if len(who) > 2 and total >= _BUSY_DAY and count > max(0.5, 3 * usual) * total:
            found.append(Burst(name, day, count, total, usual))
    return tuple(found)
