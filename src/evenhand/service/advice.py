"""Whether to bring the fallback back: an open alarm, and figures by which the model in production is worse than it.

A rise alone is no reason: in an outage or a busy week both models would look the same. So the rate that rose is compared
between the two where they served side by side, with an interval that may be looked at any time. After a full switch the
new model alone is there to see an outage, and nothing is advised.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evenhand.figure import Figure
from evenhand.lifecycle.registry import Decision, rollback
from evenhand.service.alarm import place_words
from evenhand.service.counts import Counts, read_counts
from evenhand.service.database import Database
from evenhand.service.lookout import Alarm, alarms
from evenhand.service.policy import Signal
from evenhand.service.production import Production, Release
from evenhand.service.sequence import Tally, rate_difference
from evenhand.service.store import Store

# Drafts or thumbs of each model, side by side, below which nothing is compared.
_FEWEST = 100


@dataclass(frozen=True, slots=True)
class _Slice:
    """What became of one day's drafts of one category, of either model."""

    category: str
    incumbent: Counts
    fallback: Counts


@dataclass(frozen=True, slots=True)
class Advice:
    """Whether to roll back from `incumbent` to `fallback`, and why or why not; the difference is incumbent minus fallback."""

    advised: bool
    incumbent: str
    fallback: str | None
    alarm: Alarm
    difference: Figure
    words: str

    def json(self) -> dict[str, Any]:
        """The advice as `/v1/alarms` tells it."""
        return {
            "advised": self.advised,
            "incumbent": self.incumbent,
            "fallback": self.fallback,
            "signal": self.alarm.opened.signal,
            "category": self.alarm.opened.category,
            "difference": self.difference.json(),
            "words": self.words,
        }


def advise(database: Database, open_alarms: Sequence[Alarm], release: Release | None) -> Advice | None:
    """The strongest advice that the tenant's open alarms give; None without alarms or without a model in production.

    Alarms that opened before that model went into production are not held against it.
    """
    if release is None or release.incumbent is None:
        return None
    own = [alarm for alarm in open_alarms if alarm.closed is None and alarm.opened_ms > release.since_ms]
    if not own:
        return None
    slices = []
    if release.fallback is not None:
        incumbent, fallback = release.known_as(release.incumbent), release.known_as(release.fallback)
        both, tenant = incumbent | fallback, own[0].tenant
        counts = read_counts(database, ("day", "model", "category"), tenant, models=both)
        slices = _side_by_side(counts, incumbent, fallback)
    found = [_on(alarm, release.incumbent, release.fallback, slices) for alarm in own]
    return max(found, key=lambda advice: (advice.advised, advice.difference.low or -1.0))


def roll_back_by_policy(store: Store, production: Production, tenants: Collection[str], when: str) -> None:
    """Carry out what the alarms of `tenants` advise, as a policy's `rollback: automatic` asks; raises RegistryError."""
    open_alarms = [alarm for alarm in alarms(store) if alarm.closed is None and alarm.tenant in tenants]
    for tenant in sorted({alarm.tenant for alarm in open_alarms}):
        own = [alarm for alarm in open_alarms if alarm.tenant == tenant]
        advice = advise(store.database, own, production.read())
        if advice is not None and advice.advised:
            carry_out(production, Decision("evenhand monitor, by its policy", when, advice.words), advice.incumbent)


def carry_out(production: Production, decision: Decision, incumbent: str) -> dict[str, Any]:
    """Roll the registry back if `incumbent` is still in production; returns the registry's entry.

    Raises RegistryError where it is not, UserError where there is nothing to go back to.
    """
    entry = rollback(production.registry, decision, instead_of=incumbent)
    production.read()
    return dict(entry.content)


def _side_by_side(
    counts: Mapping[tuple[str, ...], Counts], incumbent: Collection[str], fallback: Collection[str]
) -> list[_Slice]:
    """What became of the drafts of the days on which both models served, and on the days before and after as well.

    On the first and the last day that they share, one may have served after the other.
    """
    by_day: dict[str, dict[str, _Slice]] = {}
    for (day, model, category), own in counts.items():
        slices = by_day.setdefault(day, {})
        known = slices.get(category, _Slice(category, Counts(), Counts()))
        if model in incumbent:
            slices[category] = _Slice(category, known.incumbent + own, known.fallback)
        elif model in fallback:
            slices[category] = _Slice(category, known.incumbent, known.fallback + own)
    days = [list(by_day[day].values()) for day in sorted(by_day)]
    shared = [any(own.incumbent.drafts for own in day) and any(own.fallback.drafts for own in day) for day in days]
    inner = [day for at, day in enumerate(days) if 0 < at < len(days) - 1 and all(shared[at - 1 : at + 2])]
    return [one for day in inner for one in day]


def _as_many(slices: Sequence[_Slice], signal: Signal) -> tuple[Tally, Tally]:
    """The signal with either model, every slice counted as the model with fewer trials has it.

    Unequal shares would hold a bad day, or a category of its own rate, against the model that had more of it.
    """
    trials, hits, hits_before = 0, 0.0, 0.0
    for one in slices:
        own, before = one.incumbent.tally(signal), one.fallback.tally(signal)
        fewer = min(own.trials, before.trials)
        trials, hits, hits_before = trials + fewer, hits + fewer * own.rate, hits_before + fewer * before.rate
    return Tally(round(hits), trials), Tally(round(hits_before), trials)


def _on(alarm: Alarm, incumbent: str, fallback: str | None, slices: Sequence[_Slice]) -> Advice:
    signal, category = alarm.opened.signal, alarm.opened.category
    if fallback is None:
        words = f"{incumbent} is the only model that was ever in production: there is nothing to go back to"
        return Advice(False, incumbent, None, alarm, Figure(None, 0), words)
    own, before = _as_many([one for one in slices if category in (None, one.category)], signal)
    what, unit = f"{signal} in {place_words(category)}", "thumbs" if signal == "thumb_down" else "drafts"
    if own.trials < _FEWEST:
        words = (
            f"{what} has risen, but {incumbent} and {fallback} did not run side by side long enough to tell whether the "
            f"model is the cause ({own.trials} {unit} of each to compare, {_FEWEST} are needed)"
        )
        return Advice(False, incumbent, fallback, alarm, Figure(None, 2 * own.trials), words)
    difference = rate_difference(own, before)
    value, low, high = (100 * (bound or 0.0) for bound in (difference.value, difference.low, difference.high))
    apart = f"{value:.1f} points ({low:.1f} to {high:.1f}, {own.trials:,} {unit} of each)".replace("-", "−")
    if low > 0:
        words = f"roll back to {fallback}: side by side, {what} is higher with {incumbent} by {apart}"
        return Advice(True, incumbent, fallback, alarm, difference, words)
    words = (
        f"{what} has risen, but {incumbent} is not shown to be worse than {fallback} side by side: {apart}; "
        "look for another cause"
    )
    return Advice(False, incumbent, fallback, alarm, difference, words)
