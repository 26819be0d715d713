"""Simulated traffic of a support desk, in counts: known rates in five categories, which may change."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from evenhand.service.alarm import Batch
from evenhand.service.batch import Batch as Transaction
from evenhand.service.store import Store
from evenhand.service.sums import ROLLUP_KEYS, ROLLUP_SUMS

CATEGORIES = {"billing": 0.3, "shipping": 0.25, "returns": 0.2, "account": 0.15, "technical": 0.1}
RATES = {"takeover": 0.08, "escalation": 0.05, "abandoned": 0.04, "edit": 0.2}


def batches(rng: np.random.Generator, drafts: int, rates: Mapping[str, float] = RATES) -> Iterator[Batch]:
    """So many drafts with what became of them; one in five gets a thumb, and three in ten of those are down."""
    counts = rng.multinomial(drafts, list(CATEGORIES.values()))
    for category, count in zip(CATEGORIES, counts.tolist(), strict=True):
        thumbs = int(rng.binomial(count, 0.2))
        hits = {signal: int(rng.binomial(count, rate)) for signal, rate in rates.items()}
        yield Batch(category, count, thumbs, hits | {"thumb_down": int(rng.binomial(thumbs, 0.3))})


def pour(
    store: Store, traffic: Iterable[Batch], day: str = "2026-11-25", model: str = "harbor-2", tenant: str = "t"
) -> None:
    """Add batches to the roll-ups, as their events would have, and move the count of events on."""
    rows, events = [], 0
    for batch in traffic:
        kinds = {kind: count for kind, count in batch.hits.items() if kind != "thumb_down"}
        for kind, count in {**kinds, "draft": batch.drafts, "thumb": batch.thumbs}.items():
            ups = batch.thumbs - batch.hits.get("thumb_down", 0) if kind == "thumb" else 0
            where = {"day": day, "tenant": tenant, "model": model, "category": batch.category, "kind": kind}
            rows.append(where | dict.fromkeys(ROLLUP_SUMS, 0) | {"count": count, "ups": ups})
            events += count
    with store.database.writing() as execute:
        keys = dict.fromkeys(ROLLUP_KEYS, "TEXT")
        Transaction(store.database, execute).add("rollups", keys, ROLLUP_SUMS, rows)
        execute("UPDATE head SET seq = seq + :events WHERE one = 1", {"events": events})


def pour_side_by_side(
    store: Store, rng: np.random.Generator, rates: Mapping[str, float], day: str, tenant: str = "t"
) -> None:
    """A hundred drafts of harbor-2 at these rates, and a hundred of harbor-1 at the quiet ones."""
    pour(store, batches(rng, 100, rates), day, "harbor-2", tenant)
    pour(store, batches(rng, 100), day, "harbor-1", tenant)
