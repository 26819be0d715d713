"""What one tenant's roll-ups say of a stretch of days: counts, lengths, medians. No event is read."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta

from evenhand.service.bins import quantile
from evenhand.service.counts import Counts, read_counts, total
from evenhand.service.database import Database
from evenhand.service.event import day_of
from evenhand.service.sequence import Moments, median_ranks

Histogram = Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Life:
    """One model from its first draft to now: the day of that draft, and what became of all its drafts.

    The histograms are of the days that are shown, which is what can be read in time where events are many.
    """

    model: str
    first_day: str
    counts: Counts
    histograms: Mapping[str, Histogram]


@dataclass(frozen=True, slots=True)
class Overview:
    """The days from `since` to `until`, and every model that ever wrote a draft, the latest first.

    `mean_length` is of the replies drafted on a day, in characters.
    """

    since: str
    until: str
    by_day: Mapping[str, Counts]
    by_category: Mapping[str, Counts]
    histograms: Mapping[str, Histogram]
    mean_length: Mapping[str, float]
    lives: tuple[Life, ...]

    @property
    def whole(self) -> Counts:
        """Everything of these days."""
        return total(self.by_day.values())

    @property
    def days(self) -> list[str]:
        """Every day from the first to the last, those without events too."""
        first, last = date.fromisoformat(self.since), date.fromisoformat(self.until)
        return [(first + timedelta(days=at)).isoformat() for at in range((last - first).days + 1)]

    def life(self, names: Iterable[str]) -> Life | None:
        """The model that goes by one of `names`."""
        return next((life for life in self.lives if life.model in names), None)


def read_overview(database: Database, tenant: str, days: int, now_ms: int) -> Overview:
    """The last `days` days of a tenant, today's included, and the whole lives of its models."""
    until = day_of(now_ms)
    since = (date.fromisoformat(until) - timedelta(days=days - 1)).isoformat()
    by_day: dict[str, Counts] = {}
    by_category: dict[str, Counts] = {}
    for (day, category), counts in read_counts(database, ("day", "category"), tenant, since).items():
        by_day[day] = by_day.get(day, Counts()) + counts
        by_category[category] = by_category.get(category, Counts()) + counts
    histograms = _histograms(database, tenant, since)
    return Overview(
        since,
        until,
        by_day,
        by_category,
        _together(histograms.values()),
        _mean_lengths(database, tenant, since),
        _lives(database, tenant, histograms),
    )


def median(histogram: Histogram) -> tuple[float | None, float | None, float | None]:
    """The median and the interval that holds it at every count, each within 2 %; None where there is too little."""
    n = sum(histogram.values())
    ranks = median_ranks(n) if n else None
    if ranks is None:
        return quantile(histogram, 0.5), None, None
    low, high = ((rank + 0.5) / n for rank in ranks)
    return quantile(histogram, 0.5), quantile(histogram, low), quantile(histogram, high)


def moments(histogram: Histogram) -> Moments:
    """Count, sum and sum of squares of what a histogram holds, as if each value lay in the middle of its bin.

    >>> moments({}).n
    0
    """
    values = [(quantile({number: 1}, 0.5) or 0.0, count) for number, count in histogram.items()]
    return Moments(
        sum(count for _, count in values),
        sum(value * count for value, count in values),
        sum(value**2 * count for value, count in values),
    )


def _histograms(database: Database, tenant: str, since: str) -> dict[str, dict[str, Histogram]]:
    """Model to measure to histogram."""
    sql = (
        "SELECT model, measure, bin, SUM(count) FROM bins WHERE tenant = :tenant AND day >= :since"
        " GROUP BY model, measure, bin"
    )
    found: dict[str, dict[str, dict[int, int]]] = {}
    with database.reading() as execute:
        for model, measure, number, count in execute(sql, {"tenant": tenant, "since": since}):
            found.setdefault(model, {}).setdefault(measure, {})[number] = int(count)
    return {model: dict(measures) for model, measures in found.items()}


def _together(histograms: Iterable[Mapping[str, Histogram]]) -> dict[str, Histogram]:
    """The histograms of all models as one each."""
    found: dict[str, dict[int, int]] = {}
    for measures in histograms:
        for measure, histogram in measures.items():
            into = found.setdefault(measure, {})
            for number, count in histogram.items():
                into[number] = into.get(number, 0) + count
    return dict(found)


def _mean_lengths(database: Database, tenant: str, since: str) -> dict[str, float]:
    sql = (
        "SELECT day, SUM(length_sum), SUM(length_count) FROM rollups WHERE tenant = :tenant AND day >= :since"
        " AND kind = 'draft' GROUP BY day ORDER BY day"
    )
    with database.reading() as execute:
        rows = execute(sql, {"tenant": tenant, "since": since})
    return {day: int(characters) / int(count) for day, characters, count in rows if count}


def _lives(database: Database, tenant: str, histograms: Mapping[str, Mapping[str, Histogram]]) -> tuple[Life, ...]:
    sql = "SELECT model, MIN(day) FROM rollups WHERE tenant = :tenant AND kind = 'draft' GROUP BY model"
    with database.reading() as execute:
        first = dict(execute(sql, {"tenant": tenant}))
    lives = [
        Life(model, first[model], counts, histograms.get(model, {}))
        for (model,), counts in read_counts(database, ("model",), tenant).items()
        if model in first
    ]
    return tuple(sorted(lives, key=lambda life: (life.first_day, life.model), reverse=True))
