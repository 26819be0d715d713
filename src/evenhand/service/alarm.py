"""Alarms that open when a rate has risen beyond what chance brings, and close when it has come down again."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from evenhand.service.policy import Policy, Signal
from evenhand.service.rise import STEPS, Rise, Series, series_of, threshold
from evenhand.service.sequence import Tally

Place = tuple[Signal, str | None]

# The category of drafts that have none, or a rare one.
NONE = ""

# Beyond so many categories, each would get so little of the accepted false alarms that none is found.
MOST_CATEGORIES = 40


@dataclass(frozen=True, slots=True)
class Batch:
    """What came since the last look: drafts and thumbs of one category, and how many of each signal."""

    category: str
    drafts: int
    thumbs: int
    hits: Mapping[Signal, int]

    def tally(self, signal: Signal) -> Tally:
        """The signal's count, whose hits may be of earlier drafts; only sums of many batches are held to one a draft."""
        trials = self.thumbs if signal == "thumb_down" else self.drafts
        return Tally(self.hits.get(signal, 0), trials)


@dataclass(frozen=True, slots=True)
class Notice:
    """An alarm that opened or closed. `category` is None for all drafts together.

    `before` is the rate it is compared with, `since` what came since the likeliest start of the rise, or, where the
    alarm closed, the latest drafts.
    """

    what: Literal["opened", "closed"]
    signal: Signal
    category: str | None
    before: Tally
    since: Tally
    evidence: float
    needed: float

    def words(self) -> str:
        """The alarm in one sentence.

        >>> Notice("opened", "takeover", None, Tally(800, 10000), Tally(144, 1200), 11.0, 10.6).words()
        'takeover in all drafts: 12.0 % of the latest 1,200, against 8.0 % of 10,000 before'
        """
        where = place_words(self.category)
        rate = f"{self.since.rate:.1%} of the latest {self.since.trials:,}"
        return f"{self.signal} in {where}: {rate}, against {self.before.rate:.1%} of {self.before.trials:,} before".replace(
            "%", " %"
        )

    def json(self) -> dict[str, Any]:
        """The notice as it is kept and told."""
        return {
            "what": self.what,
            "signal": self.signal,
            "category": self.category,
            "before": {"hits": self.before.hits, "trials": self.before.trials},
            "since": {"hits": self.since.hits, "trials": self.since.trials},
            "evidence": round(self.evidence, 2),
            "needed": round(self.needed, 2),
            "words": self.words(),
        }


def place_words(category: str | None) -> str:
    """Where an alarm is, in words.

    >>> place_words(None), place_words("billing"), place_words(NONE)
    ('all drafts', 'category billing', 'drafts of no or a rare category')
    """
    if category is None:
        return "all drafts"
    return "drafts of no or a rare category" if category == NONE else f"category {category}"


def notice_of(value: Mapping[str, Any]) -> Notice:
    """A notice back from its JSON."""
    before, since = (Tally(value[name]["hits"], value[name]["trials"]) for name in ("before", "since"))
    return Notice(value["what"], value["signal"], value["category"], before, since, value["evidence"], value["needed"])


@dataclass(slots=True)
class Watch:
    """The rates that a policy watches, fed in the order in which drafts came; `open` holds the alarms that are."""

    policy: Policy
    drafts: int = 0
    open: dict[Place, Notice] = field(default_factory=dict)
    _series: dict[Place, Series] = field(default_factory=dict)
    _by_category: dict[str, int] = field(default_factory=dict)
    _since_opened: dict[Place, tuple[int, int]] = field(default_factory=dict)  # drafts of all places, and own trials

    def add(self, batches: Iterable[Batch]) -> None:
        """Count what came, at once: a step of all drafts that ended between two categories would be no step of the mix."""
        came = list(batches)
        for batch in came:
            self.drafts += batch.drafts
            self._by_category[batch.category] = self._by_category.get(batch.category, 0) + batch.drafts
        for signal in {*self.policy.signals, *(signal for signal, _ in self.open)}:
            whole = sum((batch.tally(signal) for batch in came), Tally(0, 0))
            for category, tally in [(None, whole), *((batch.category, batch.tally(signal)) for batch in came)]:
                self._series.setdefault((signal, category), Series()).add(tally, self._step(category))
        for place, (drafts, trials) in self._since_opened.items():
            signal, where = place
            own = sum(batch.tally(signal).trials for batch in came if where in (None, batch.category))
            self._since_opened[place] = drafts + sum(batch.drafts for batch in came), trials + own

    def look(self) -> list[Notice]:
        """Open and close alarms by all that came, and return those that did."""
        watched = self._watched()
        ending = [(place, self._closed(place, notice)) for place, notice in self.open.items()]
        rising = [
            (place, self._risen(place, len(watched))) for place in self._places(watched) if place not in self.open
        ]
        found = []
        for place, notice in ending:
            if notice is not None:
                found.append(notice)
                del self.open[place], self._since_opened[place]
                self._series[place] = Series(notice.before)
        for place, notice in rising:
            if notice is not None:
                found.append(notice)
                self.open[place] = notice
                self._since_opened[place] = 0, 0
        return found

    def keep_only(self, categories: Collection[str]) -> None:
        """Forget the series of all other categories, but for those with an open alarm."""
        gone = [own for own in self._by_category if own not in categories and all(own != at for _, at in self.open)]
        for category in gone:
            del self._by_category[category]
        for place in [place for place in self._series if place[1] in gone]:
            del self._series[place]

    def json(self) -> dict[str, Any]:
        """Everything that is needed to go on after a restart."""
        return {
            "drafts": self.drafts,
            "by_category": self._by_category,
            "open": [notice.json() for notice in self.open.values()],
            "since_opened": [[*place, *came] for place, came in self._since_opened.items()],
            "series": [[*place, series.json()] for place, series in self._series.items()],
        }

    @classmethod
    def of(cls, policy: Policy, value: Mapping[str, Any]) -> "Watch":
        """A watch that goes on where another one, kept as JSON, left off."""
        return cls(
            policy,
            value["drafts"],
            {(notice.signal, notice.category): notice for notice in map(notice_of, value["open"])},
            {(signal, category): series_of(kept) for signal, category, kept in value["series"]},
            dict(value["by_category"]),
            # Earlier versions kept the trials alone.
            {(signal, category): (came[0], came[-1]) for signal, category, *came in value["since_opened"]},
        )

    @property
    def missing(self) -> int:
        """How many drafts are still to come before anything is watched."""
        return max(0, self.policy.baseline_drafts - self.drafts)

    def needed(self, category: str | None, categories: int) -> float:
        """The evidence at which an alarm opens: its part of the accepted false alarms, as a threshold."""
        part = self.policy.false_alarms / 2 / len(self.policy.signals)
        return threshold(part if category is None else part / max(1, categories))

    def _watched(self) -> list[str]:
        """The categories that are watched: the largest, up to a limit that a sender of many names cannot move."""
        by_size = sorted(self._by_category.items(), key=lambda one: (-one[1], one[0]))
        return [name for name, count in by_size[:MOST_CATEGORIES] if count >= self.policy.category_drafts]

    def _places(self, categories: Iterable[str]) -> list[Place]:
        if self.missing:
            return []
        return [(signal, where) for where in (None, *categories) for signal in self.policy.signals]

    def _step(self, category: str | None) -> int:
        """So many trials a step that a quiet period has STEPS of them in a series of all its drafts."""
        share = 1.0 if category is None else self._by_category[category] / max(1, self.drafts)
        return max(1, round(self.policy.period_drafts * share / STEPS))

    def _risen(self, place: Place, categories: int) -> Notice | None:
        signal, category = place
        whole = category is None and signal != "thumb_down"
        fewest = self.policy.baseline_drafts if whole else self.policy.category_drafts
        series = self._series.get(place)
        rise: Rise | None = series.sharpest_rise(fewest, self.policy.rise) if series else None
        needed = self.needed(category, categories)
        if rise is None or rise.evidence < needed:
            return None
        return Notice("opened", signal, category, rise.before, rise.since, rise.evidence, needed)

    def _closed(self, place: Place, opened: Notice) -> Notice | None:
        """The notice of an alarm's end, once enough came since it opened and the latest of it is as low as before."""
        (drafts, trials), most = self._since_opened[place], self.policy.closing_drafts
        if drafts < most:
            return None
        # What showed the rise is as much as can show its end: simulated, fewer close most alarms on rates still risen.
        fewest = min(most, max(opened.since.trials, most * trials // drafts))
        latest = self._series[place].last(fewest)
        if trials < fewest or latest.rate > self.policy.closes_at * opened.before.rate:
            return None
        return Notice("closed", *place, opened.before, latest, 0.0, opened.needed)
