"""Whether to bring the fallback back: an open alarm, and figures by which the model in production is worse than it.

A rise alone is no reason: after an outage or in a busy week both models would look the same. So the rate that rose is
compared between the two over all their drafts, with an interval that may be looked at any time.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from evenhand.figure import Figure
from evenhand.lifecycle.registry import Decision, rollback
from evenhand.service.alarm import place_words
from evenhand.service.counts import Counts, read_counts, total
from evenhand.service.database import Database
from evenhand.service.lookout import Alarm, alarms
from evenhand.service.production import Production, Release
from evenhand.service.sequence import rate_difference
from evenhand.service.store import Store


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
    counts = read_counts(database, ("model", "category"), own[0].tenant)
    found = [_on(alarm, release, release.incumbent, counts) for alarm in own]
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


def _on(alarm: Alarm, release: Release, incumbent: str, counts: dict[tuple[str, ...], Counts]) -> Advice:
    def of(model: str) -> Counts:
        names, category = release.known_as(model), alarm.opened.category
        return total(own for (name, where), own in counts.items() if name in names and category in (None, where))

    signal, fallback = alarm.opened.signal, release.fallback
    if fallback is None:
        words = f"{incumbent} is the only model that was ever in production: there is nothing to go back to"
        return Advice(False, incumbent, None, alarm, Figure(None, 0), words)
    difference = rate_difference(of(incumbent).tally(signal), of(fallback).tally(signal))
    what = f"{signal} in {place_words(alarm.opened.category)}"
    if difference.value is None or difference.low is None:
        words = (
            f"{what} has risen, but no drafts of {fallback if of(incumbent).drafts else incumbent} are known to compare"
        )
        return Advice(False, incumbent, fallback, alarm, difference, words)
    unit = "thumbs" if signal == "thumb_down" else "drafts"
    value, low, high = (100 * (bound or 0.0) for bound in (difference.value, difference.low, difference.high))
    apart = f"{value:.1f} points ({low:.1f} to {high:.1f}, {difference.n:,} {unit})".replace("-", "−")
    if difference.low > 0:
        words = f"roll back to {fallback}: {what} is higher with {incumbent} by {apart}"
        return Advice(True, incumbent, fallback, alarm, difference, words)
    words = (
        f"{what} has risen, but {incumbent} is not shown to be worse than {fallback}: {apart}; look for another cause"
    )
    return Advice(False, incumbent, fallback, alarm, difference, words)
