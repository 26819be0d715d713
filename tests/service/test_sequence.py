import math

import numpy as np
import pytest
from scipy.special import betaln

from evenhand.service.sequence import (
    Moments,
    Tally,
    evidence,
    mean,
    mean_difference,
    median_ranks,
    rate,
    rate_difference,
)

ENOUGH = math.log(20)


def test_evidence_is_a_martingale_under_the_true_rate():
    """One more draft leaves the expected likelihood ratio where it was, whatever came before."""
    for hits, trials, true in ((0, 0, 0.08), (3, 40, 0.08), (30, 31, 0.9)):
        now = math.exp(evidence(true, hits, trials))
        after = true * math.exp(evidence(true, hits + 1, trials + 1)) + (1 - true) * math.exp(
            evidence(true, hits, trials + 1)
        )
        assert math.isclose(now, after, rel_tol=1e-10)


def test_evidence_equals_the_mixture_integrated_numerically():
    grid = (np.arange(200_000) + 0.5) / 200_000
    prior = grid**-0.5 * (1 - grid) ** -0.5 / math.exp(betaln(0.5, 0.5))
    ratio = (grid / 0.1) ** 7 * ((1 - grid) / 0.9) ** 33
    assert math.isclose(float(evidence(0.1, 7, 40)), math.log((prior * ratio).mean()), rel_tol=1e-4)


@pytest.mark.parametrize("true", [0.02, 0.08, 0.5])
def test_a_rate_is_held_at_all_counts_at_once_in_95_of_100_streams(true):
    rng = np.random.default_rng(7)
    missed = np.zeros(400, bool)
    hits = np.zeros(400, np.int64)
    for trials in range(1, 5001):
        hits += rng.random(400) < true
        missed |= evidence(true, hits, trials) >= ENOUGH
    assert missed.mean() <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 400)


def test_the_interval_of_a_rate_ends_where_the_evidence_reaches_one_in_twenty():
    found = rate(Tally(80, 1000))
    for end in (found.low, found.high):
        assert math.isclose(float(evidence(end, 80, 1000)), ENOUGH, rel_tol=1e-9)
    assert rate(Tally(0, 50)).low == 0.0
    assert rate(Tally(50, 50)).high == 1.0
    assert rate(Tally(0, 0)).value is None


def test_a_difference_is_held_at_all_counts_under_a_split_that_follows_the_outcomes():
    """The candidate gets more traffic while it looks better: a fixed-size test is biased by that, evidence is not."""
    rng = np.random.default_rng(3)
    streams, true_a, true_b = 300, 0.12, 0.08
    won, tried = np.zeros((2, streams)), np.zeros((2, streams))
    missed = np.zeros(streams, bool)
    for _ in range(3000):
        share = np.where((won[0] + 1) * (tried[1] + 2) < (won[1] + 1) * (tried[0] + 2), 0.9, 0.2)
        to_a = rng.random(streams) < share
        hit = rng.random(streams) < np.where(to_a, true_a, true_b)
        for arm, given in enumerate((to_a, ~to_a)):
            tried[arm] += given
            won[arm] += given & hit
        both = evidence(true_a, won[0], tried[0]) + evidence(true_b, won[1], tried[1])
        missed |= both >= ENOUGH
    assert missed.mean() <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / streams)


def test_the_interval_of_a_difference_is_the_projection_of_all_pairs_of_rates_that_stand():
    first, second = Tally(60, 300), Tally(30, 500)
    grid = np.linspace(1e-4, 1 - 1e-4, 1500)
    stand = evidence(grid[:, None], 60, 300) + evidence(grid[None, :], 30, 500) < ENOUGH
    gaps = (grid[:, None] - grid[None, :])[stand]
    found = rate_difference(first, second)
    assert math.isclose(found.low, gaps.min(), abs_tol=2e-3)
    assert math.isclose(found.high, gaps.max(), abs_tol=2e-3)
    assert rate_difference(first, Tally(0, 0)).value is None


def test_a_difference_tells_8_from_12_percent_and_not_8_from_8():
    assert rate_difference(Tally(600, 5000), Tally(400, 5000)).low > 0
    assert rate_difference(Tally(400, 5000), Tally(400, 5000)).low < 0


@pytest.mark.parametrize("spread", [0.2, 0.7])
def test_a_mean_is_held_at_all_counts_of_skewed_latencies(spread):
    rng = np.random.default_rng(5)
    draws = rng.lognormal(0.0, spread, (300, 4000))
    n = np.arange(1, 4001)
    total, squares = draws.cumsum(1), (draws**2).cumsum(1)
    missed = np.zeros(300, bool)
    for at in range(199, 4000, 20):
        for stream in np.flatnonzero(~missed):
            found = mean(Moments(int(n[at]), total[stream, at], squares[stream, at]))
            missed[stream] = not found.low <= math.exp(spread**2 / 2) <= found.high
    assert missed.mean() <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 300)


def test_means_have_no_interval_where_they_cannot():
    assert mean(Moments(0, 0.0, 0.0)).value is None
    assert mean(Moments(10, 100.0, 1100.0)).low is None
    assert mean(Moments(500, 5000.0, 50000.0)).low is None
    assert mean_difference(Moments(10, 1.0, 1.0), Moments(500, 1.0, 1.0)).low is None


def test_a_difference_of_means_is_wider_than_either_and_narrower_than_both():
    first, second = (
        Moments(2000, 2000 * 210.0, 2000 * (210.0**2 + 90.0**2)),
        Moments(900, 900 * 340.0, 900 * (340.0**2 + 120.0**2)),
    )
    halves = [(found.high - found.low) / 2 for found in (mean(first), mean(second), mean_difference(first, second))]
    assert max(halves[:2]) < halves[2] < sum(halves[:2]) * 1.1
    assert math.isclose(mean_difference(first, second).value, -130.0)


def test_the_median_lies_between_its_ranks_at_all_counts():
    rng = np.random.default_rng(11)
    below = (rng.random((500, 1000)) < 0.5).cumsum(1)
    missed = np.zeros(500, bool)
    for n in range(1, 1001, 3):
        if ranks := median_ranks(n):
            missed |= (below[:, n - 1] <= ranks[0]) | (below[:, n - 1] > ranks[1])
    assert missed.mean() <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 500)
    assert median_ranks(5) is None
