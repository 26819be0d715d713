"""Simulated traffic of a support desk, in counts: known rates in five categories, which may change."""

from collections.abc import Iterator, Mapping

import numpy as np

from evenhand.service.alarm import Batch

CATEGORIES = {"billing": 0.3, "shipping": 0.25, "returns": 0.2, "account": 0.15, "technical": 0.1}
RATES = {"takeover": 0.08, "escalation": 0.05, "abandoned": 0.04, "edit": 0.2}


def batches(rng: np.random.Generator, drafts: int, rates: Mapping[str, float] = RATES) -> Iterator[Batch]:
    """So many drafts with what became of them; one in five gets a thumb, and three in ten of those are down."""
    counts = rng.multinomial(drafts, list(CATEGORIES.values()))
    for category, count in zip(CATEGORIES, counts.tolist(), strict=True):
        thumbs = int(rng.binomial(count, 0.2))
        hits = {signal: int(rng.binomial(count, rate)) for signal, rate in rates.items()}
        yield Batch(category, count, thumbs, hits | {"thumb_down": int(rng.binomial(thumbs, 0.3))})
