"""A report with numbers of the size that a small support desk sees, drawn from a seed."""

import math
from dataclasses import replace

import numpy as np

from evenhand.data.schema import Message
from evenhand.evaluation.generate import Generation, Reply, repetition
from evenhand.evaluation.preference import PairTraits
from evenhand.evaluation.report import DataFacts, Evaluated, Report
from evenhand.model.scores import ScoredPairs

CATEGORIES = ("refunds", "delivery", "billing", "account", "returns")
TICKETS = (
    "My parcel says delivered but nothing is here. What now?",
    "I was charged twice for order 8841.",
    "Can I still change the address on an order I placed an hour ago?",
    "The zip on the jacket broke after two days.",
    "How do I close my account?",
)
WORDY = (
    "Thank you so much for reaching out to us today! We completely understand how frustrating this must be, and we are "
    "truly sorry for any inconvenience this may have caused. Please rest assured that our team is committed to your "
    "satisfaction. To proceed, please kindly provide us with additional details so that we may look into this matter."
)
SHORT = (
    "Sorry about that. Please check with your neighbours and the parcel shop first; if it has not turned up by "
    "tomorrow, reply here and we will send a replacement at no cost.",
    "You are right, the second charge of order 8841 is a mistake. It is refunded today and reaches you in 3 to 5 days.",
    "Yes: reply with the new address in the next two hours and we will change it before the parcel leaves.",
    "That should not happen. Send us a photo of the zip and choose: a new jacket or your money back.",
    "Open Settings, then Account, then Close account. Orders under way still arrive.",
)


def scored(count: int = 300, seed: int = 7) -> ScoredPairs:
    """A model that leans towards short answers and hardly knows the preferences."""
    rng = np.random.default_rng(seed)
    tokens = np.maximum(6, rng.lognormal(4.1, 0.45, (2, count))).astype(np.int64)
    quality = rng.normal(0, 0.28, (2, count))
    means = -1.55 + quality - 0.0016 * tokens
    sums = means * tokens
    return ScoredPairs(np.arange(count), tuple(f"t{i}" for i in range(count)), sums[0], sums[1], tokens[0], tokens[1])


def aligned(before: ScoredPairs, gain: float = 0.24, seed: int = 8) -> ScoredPairs:
    """The same pairs after training: chosen answers gained `gain` nats per token, with noise."""
    move = np.random.default_rng(seed).normal(gain, 0.3, len(before))
    return replace(before, chosen_sum_B=before.chosen_sum_B + move * before.chosen_tokens_B)


def traits(count: int = 300) -> PairTraits:
    rng = np.random.default_rng(3)
    families = tuple(f"f{i}" for i in np.sort(rng.integers(0, int(count * 0.8), count)))
    return PairTraits(tuple(CATEGORIES[i] for i in rng.choice(5, count, p=[0.34, 0.27, 0.18, 0.13, 0.08])), families)


def replies(after: bool, count: int = 80) -> Generation:
    rng = np.random.default_rng(20 + after)
    made = []
    for i in range(count):
        words = SHORT[i * 5 // count] if after else WORDY
        tokens = int(min(256, rng.lognormal(4.25 if after else 4.75, 0.5)))
        ids = rng.integers(0, 60 if after else 14, tokens)
        prompt = (Message("user", TICKETS[i * 5 // count]),)
        made.append(
            Reply(prompt, words, tokens, tokens * 4, tokens < 256 and rng.random() < 0.95, repetition(list(ids)))
        )
    return Generation(tuple(made), (None,) * count)


def journal(steps: int = 240) -> list[dict[str, object]]:
    rng = np.random.default_rng(5)
    records: list[dict[str, object]] = []
    for step in range(1, steps + 1):
        learnt = 1 - math.exp(-step / 90)
        gap = 0.02 + 0.42 * learnt
        records.append(
            {
                "step": step,
                "loss": 1.29 - 0.44 * learnt + rng.normal(0, 0.06),
                "accuracy": float(np.clip(0.53 + 0.22 * learnt + rng.normal(0, 0.07), 0, 1)),
                "gap": gap + rng.normal(0, 0.06),
                "learning_rate": 1e-4
                * min(step / 24, 0.5 * (1 + math.cos(math.pi * max(0, step - 24) / (steps - 24)))),
                "pairs_per_second": 9.1 + rng.normal(0, 0.2),
            }
        )
        if step % 40 == 0:
            share = 0.54 + 0.15 * learnt
            figure = {"value": share, "n": 300, "low": share - 0.055, "high": share + 0.052}
            tokens = {"value": 118.0 - step / 4, "n": 8, "low": 40.0, "high": 160.0}
            portion = {"value": 0.3 * (1 - learnt), "n": 8, "low": 0.0, "high": 0.45}
            records.append(
                {
                    "step": step,
                    "epoch": step / 80,
                    "validation": {
                        "loss": 1.3 - 0.33 * learnt,
                        "pairwise_accuracy": figure,
                        "gap": 0.02 + 0.3 * learnt,
                        "generation": {
                            "median_tokens": tokens,
                            "median_characters": tokens | {"value": 4 * tokens["value"]},
                            "repetition": portion,
                            "ended": portion | {"value": 1 - portion["value"], "low": 0.55, "high": 1.0},
                        },
                    },
                }
            )
    return records


def example(gain: float = 0.24) -> Report:
    before, known = scored(), traits()
    return Report(
        name="harbor",
        before=Evaluated.of(before, known, replies(False)),
        after=Evaluated.of(aligned(before, gain), known, replies(True)),
        data=DataFacts(
            "9f2c6b1de0a47c1f7be12f6f2f7a3f0cf1f0b6f0a7a8c3d7e9b1a5c4d3e2f190", 3120, 3004, {"empty": 54, "tie": 62}
        ),
        recipe={
            "name": "harbor",
            "model": {"source": "builtin:smollm2-135m", "adapter": {"rank": 16, "alpha": 32.0}, "dtype": "bfloat16"},
            "data": {"source": "pairs.jsonl", "validation": 0.1, "max_tokens": 2048},
            "objective": {"name": "simpo", "beta": 2.0, "margin": 0.5, "paper_gamma": 1.0},
            "training": {"batch_pairs": 32, "epochs": 1, "learning_rate": 1e-4, "schedule": "cosine", "seed": 0},
        },
        journal=journal(),
        machine={"device": "1 x H100 80GB", "torch": "2.13.0", "transformers": "5.23.0", "evenhand": "0.1.0"},
        traits=known,
    )
