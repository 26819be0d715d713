"""How often the 95 % intervals of evaluation pages hold the truth, and how often `compare` tells equals apart.

    python benchmarks/coverage.py intervals --data-sets 2000
    python benchmarks/coverage.py verdicts --simulations 500

Every data set is drawn from a population whose value is known, so that a miss is a miss.
"""

import argparse
from collections.abc import Callable

import numpy as np
from scipy.special import ndtr

from evenhand.evaluation.contrast import contrast
from evenhand.evaluation.interval import (
    Sample,
    balanced,
    mean_difference,
    median,
    share,
    spearman,
    student_mean,
)
from evenhand.figure import Figure

Draw = Callable[[np.random.Generator, int], tuple[Figure, float]]


def accuracy(rng: np.random.Generator, n: int) -> tuple[Figure, float]:
    return share(Sample((rng.random(n) < 0.74).astype(np.float64), np.arange(n))), 0.74


def accuracy_with_ties(rng: np.random.Generator, n: int) -> tuple[Figure, float]:
    value = rng.choice([0.0, 0.5, 1.0], n, p=[0.3, 0.1, 0.6])
    return share(Sample(value, np.arange(n))), 0.65


def accuracy_in_families(rng: np.random.Generator, n: int) -> tuple[Figure, float]:
    """Pairs of one family share a leaning; families of 1 to 4."""
    family = np.repeat(np.arange(n), rng.integers(1, 5, n))[:n]
    leaning = rng.normal(0, 1, n)[family]
    right = leaning + rng.normal(0, 1, n) + 0.9 > 0
    return share(Sample(right.astype(np.float64), family)), float(ndtr(0.9 / np.sqrt(2)))


def length_balanced(rng: np.random.Generator, n: int) -> tuple[Figure, float]:
    shorter = rng.random(n) < 0.4
    right = rng.random(n) < np.where(shorter, 0.8, 0.6)
    sample = Sample(right.astype(np.float64), np.arange(n))
    one, two = sample.where(shorter), sample.where(~shorter)
    return balanced(one, two, (share(one), share(two))), 0.7


def paired_difference(rng: np.random.Generator, n: int) -> tuple[Figure, float]:
    value = rng.choice([-1.0, 0.0, 1.0], n, p=[0.07, 0.8, 0.13])
    return mean_difference(Sample(value, np.arange(n))), 0.06


def paired_difference_in_families(rng: np.random.Generator, n: int) -> tuple[Figure, float]:
    family = np.repeat(np.arange(n), rng.integers(1, 5, n))[:n]
    together = rng.random(n)[family] < 0.5
    common = rng.choice([-1.0, 0.0, 1.0], n, p=[0.07, 0.8, 0.13])[family]
    value = np.where(together, common, rng.choice([-1.0, 0.0, 1.0], n, p=[0.07, 0.8, 0.13]))
    return mean_difference(Sample(value, family)), 0.06


def bootstrapped_difference(rng: np.random.Generator, n: int) -> tuple[Figure, float]:
    value = rng.choice([-1.0, 0.0, 1.0], n, p=[0.07, 0.8, 0.13])
    return contrast(Sample(value, np.arange(n))).bootstrap, 0.06


def reply_length_median(rng: np.random.Generator, n: int) -> tuple[Figure, float]:
    return median(Sample(np.floor(rng.lognormal(4.1, 0.5, n)), np.arange(n))), 60.0


def repetition_mean(rng: np.random.Generator, n: int) -> tuple[Figure, float]:
    """Mostly a little, sometimes a lot: a skewed share."""
    return student_mean(Sample(rng.beta(0.8, 3.2, n), np.arange(n))), 0.2


def length_correlation(rng: np.random.Generator, n: int) -> tuple[Figure, float]:
    one, noise = rng.normal(0, 1, n), rng.normal(0, 1, n)
    rho = 0.5
    two = rho * one + np.sqrt(1 - rho**2) * noise
    return spearman(Sample(one, np.arange(n)), two), float(6 / np.pi * np.arcsin(rho / 2))


STATISTICS: dict[str, Draw] = {
    "accuracy": accuracy,
    "accuracy, ties": accuracy_with_ties,
    "accuracy, families": accuracy_in_families,
    "length-balanced accuracy": length_balanced,
    "paired difference": paired_difference,
    "paired difference, families": paired_difference_in_families,
    "paired difference, bootstrap": bootstrapped_difference,
    "median length": reply_length_median,
    "repetition": repetition_mean,
    "Spearman with length": length_correlation,
}
# The fewest items for which a page shows an interval at all.
SMALLEST = {"median length": 6}


def coverage(draw: Draw, n: int, data_sets: int, seed: int = 0) -> float:
    """The share of data sets whose interval holds the truth; one without an interval counts as a miss."""
    rng, held = np.random.default_rng(seed), 0
    for _ in range(data_sets):
        figure, truth = draw(rng, n)
        held += figure.low is not None and figure.high is not None and figure.low <= truth <= figure.high
    return held / data_sets


def false_verdicts(simulations: int, n: int, families: int, seed: int = 0) -> float:
    """How often two models of equal quality, which differ pair by pair, are told apart.

    Each right answer has a part that both models share and a part of each one's own, as two seeds of one recipe have.
    """
    rng, wrong = np.random.default_rng(seed), 0
    for _ in range(simulations):
        family = np.sort(rng.integers(0, families, n))
        quality = 0.4 + rng.normal(0, 0.7, families)[family] + rng.normal(0, 0.8, n)
        own = [rng.normal(0, 0.4, families)[family] + rng.normal(0, 0.6, n) for _ in range(2)]
        one, two = (quality + part > 0 for part in own)
        wrong += contrast(Sample(two.astype(np.float64) - one.astype(np.float64), family)).word != "undecided"
    return wrong / simulations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("intervals", "verdicts"))
    parser.add_argument("--data-sets", type=int, default=2000)
    parser.add_argument("--simulations", type=int, default=500)
    parser.add_argument("--only", help="a part of a statistic's name")
    asked = parser.parse_args()
    if asked.what == "verdicts":
        print("| pairs | families | told apart though equal |\n|---|---|---|")
        for n, families in ((24, 24), (200, 10_000), (200, 80), (1000, 400)):
            rate = false_verdicts(asked.simulations, n, families)
            print(f"| {n} | {families if families < n else 'each its own'} | {rate:.1%} |", flush=True)
        return
    print("| statistic | smallest n shown | n = 200 | n = 1,000 |\n|---|---|---|---|")
    for name, draw in STATISTICS.items():
        if asked.only and asked.only not in name:
            continue
        least = SMALLEST.get(name, 12)
        cells = [coverage(draw, n, asked.data_sets) for n in (least, 200, 1000)]
        print(f"| {name} | {cells[0]:.1%} at {least} | {cells[1]:.1%} | {cells[2]:.1%} |", flush=True)


if __name__ == "__main__":
    main()
