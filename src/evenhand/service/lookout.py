"""Looks at the roll-ups every few seconds, opens and closes each tenant's alarms, and keeps them for good.

What a tenant's watch has seen is one row, which moves in the transaction that keeps the alarms it opened: a kill loses
nothing and opens nothing twice, and of several services on one database one look counts.
"""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from evenhand.files import canonical_json
from evenhand.service.alarm import MOST_CATEGORIES, NONE, Batch, Notice, Watch, notice_of
from evenhand.service.counts import Counts, counts_of, read_counts, total
from evenhand.service.policy import Policy
from evenhand.service.store import Store, add_record

TOPIC = "alarm"
_LOOK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Alarm:
    """One alarm: whose, what opened it and when, and what closed it, None while it is open. Times in ms since 1970."""

    tenant: str
    opened_ms: int
    opened: Notice
    closed_ms: int | None = None
    closed: Notice | None = None


@dataclass(slots=True)
class _Sight:
    """One tenant's watch, the counts that it has been fed, and the version under which both are kept."""

    watch: Watch
    version: int = 0
    all: Counts = field(default_factory=Counts)
    by_category: dict[str, Counts] = field(default_factory=dict)

    def json(self) -> dict[str, object]:
        kept = {name: counts.json() for name, counts in self.by_category.items()}
        return {"watch": self.watch.json(), "all": self.all.json(), "by_category": kept}


class Lookout:
    """Watches every tenant by one policy; `then` is called after each look, on the same thread."""

    def __init__(self, store: Store, policy: Policy, now_ms: Callable[[], int]) -> None:
        self.policy = policy
        self.then: Callable[[], None] = lambda: None
        self._store = store
        self._now_ms = now_ms
        self._failed: str | None = None
        self._sights: dict[str, _Sight] = {}
        self._due = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="evenhand-lookout", daemon=True)

    def start(self) -> None:
        """Start to look, on a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Stop; a look that runs is finished."""
        self._ended.set()
        self._thread.join()

    @property
    def failing(self) -> str | None:
        """Why nothing is watched at present, None where all is well."""
        if self._thread.ident is not None and not self._thread.is_alive() and not self._ended.is_set():
            return "nothing is watched any more: the thread that looks has ended; restart the service."
        return self._failed

    def look(self) -> list[Notice]:
        """Look once at every tenant of whom enough new drafts came; the alarms that opened or closed, now kept."""
        seq, _ = self._store.head()
        if seq < self._due:
            return []
        by_tenant: dict[str, dict[str, Counts]] = {}
        for (tenant, category), counts in read_counts(self._store.database, ("tenant", "category")).items():
            by_tenant.setdefault(tenant, {})[category] = counts
        found: list[Notice] = []
        waiting = 0
        for tenant, own in by_tenant.items():
            whole = total(own.values())
            found += self._look_at(tenant, own, whole)
            sight = self._sights.get(tenant)
            waiting = max(waiting, (whole - sight.all).drafts if sight else self.policy.look_drafts)
        self._due = seq + self.policy.look_drafts - waiting
        return found

    def missing(self, tenant: str) -> int:
        """How many drafts are still to come before anything of the tenant is watched."""
        drafts = total(read_counts(self._store.database, ("tenant",), tenant).values()).drafts
        return max(0, self.policy.baseline_drafts - drafts)

    def _run(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            try:
                self.look()
                self.then()
                self._failed = None
            except Exception as error:  # told, whatever it is; the next look sees what this one missed
                self._failed = f"the rates could not be watched at the last look ({type(error).__name__}: {error})."

    def _look_at(self, tenant: str, now: Mapping[str, Counts], whole: Counts) -> list[Notice]:
        sight = self._sight(tenant)
        if (whole - sight.all).drafts < self.policy.look_drafts:
            return []
        common = sorted(now, key=lambda name: (name == NONE, -now[name].drafts, name))[:MOST_CATEGORIES]
        if sight.version == 0:
            self._feed_by_day(tenant, sight, common)
        else:
            sight.watch.keep_only({*common, NONE})
            sight.watch.add(_news(sight, {name: now[name] for name in common}, whole, len(now) > len(common)))
        notices = sight.watch.look()
        sight.all, sight.by_category = whole, {name: now[name] for name in common}
        del self._sights[tenant]  # until it is kept, what is kept is what counts
        if not self._keep(tenant, sight, notices):  # another service was faster, and tells what there is to tell
            return []
        self._sights[tenant] = sight
        return notices

    def _sight(self, tenant: str) -> _Sight:
        """What is kept of a tenant's watch, read again where another service has moved it on."""
        known = self._sights.get(tenant)
        with self._store.database.reading() as execute:
            values = {"tenant": tenant, "version": known.version if known else 0}
            rows = execute("SELECT version FROM watches WHERE tenant = :tenant AND version = :version", values)
            if known and rows:
                return known
            rows = execute("SELECT version, content FROM watches WHERE tenant = :tenant", {"tenant": tenant})
        found = _Sight(Watch(self.policy))
        for version, content in rows:
            value = json.loads(content)
            kept = {name: counts_of(counts) for name, counts in value["by_category"].items()}
            found = _Sight(Watch.of(self.policy, value["watch"]), version, counts_of(value["all"]), kept)
        self._sights[tenant] = found
        return found

    def _feed_by_day(self, tenant: str, sight: _Sight, common: Sequence[str]) -> None:
        """All that is known of a tenant that was not watched yet, in the order of its days."""
        days: dict[str, dict[str, Counts]] = {}
        for (day, category), counts in read_counts(self._store.database, ("day", "category"), tenant).items():
            own, name = days.setdefault(day, {}), category if category in common else NONE
            own[name] = own.get(name, Counts()) + counts
        for day in sorted(days):
            sight.watch.add(_batch(name, counts) for name, counts in days[day].items())

    def _keep(self, tenant: str, sight: _Sight, notices: Sequence[Notice]) -> bool:
        """Keep the watch and its alarms; False where another service has moved the watch on meanwhile."""
        values = {"tenant": tenant, "version": sight.version, "content": canonical_json(sight.json()).decode()}
        with self._store.database.writing() as execute:
            if not execute(_MOVE if sight.version else _BEGIN, values):
                return False
            for notice in notices:
                add_record(execute, TOPIC, {"tenant": tenant, **notice.json()}, self._now_ms())
        sight.version += 1
        return True


_BEGIN = (
    "INSERT INTO watches (tenant, version, content) VALUES (:tenant, :version + 1, :content)"
    " ON CONFLICT DO NOTHING RETURNING version"
)
_MOVE = (
    "UPDATE watches SET version = version + 1, content = :content"
    " WHERE tenant = :tenant AND version = :version RETURNING version"
)


def alarms(store: Store, tenant: str | None = None) -> list[Alarm]:
    """Every alarm that ever opened, of one tenant or all, the latest first."""
    found: list[Alarm] = []
    for record in store.records(TOPIC):
        owner, notice = record.content["tenant"], notice_of(record.content)
        if tenant not in (None, owner):
            continue
        if notice.what == "opened":
            found.append(Alarm(owner, record.at_ms, notice))
            continue
        place = (owner, notice.signal, notice.category)
        for at in range(len(found) - 1, -1, -1):
            one = found[at]
            if one.closed is None and (one.tenant, one.opened.signal, one.opened.category) == place:
                found[at] = Alarm(owner, one.opened_ms, one.opened, record.at_ms, notice)
                break
    return found[::-1]


def _news(sight: _Sight, common: Mapping[str, Counts], whole: Counts, crowded: bool) -> list[Batch]:
    """What came since the last look by category; what is of no common one together.

    Where categories are many, one that has just become common counts from now on: its past is told already.
    """
    batches = []
    rest = whole - sight.all
    for name, counts in common.items():
        before = sight.by_category.get(name, counts if crowded else Counts())
        batches.append(_batch(name, counts - before))
        rest -= counts - before
    return [
        batch for batch in (*batches, _batch(NONE, rest)) if batch.drafts or batch.thumbs or any(batch.hits.values())
    ]


def _batch(category: str, counts: Counts) -> Batch:
    return Batch(category, counts.drafts, counts.thumbs, counts.hits)
