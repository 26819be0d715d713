"""The length-controlled share against statsmodels, where Firth's penalty no longer matters, and where it must."""

import numpy as np
import pytest
import statsmodels.api as sm

from evenhand.evaluation.interval import Sample
from evenhand.evaluation.length_control import length_controlled


def drawn(count: int, level: float, effect: float, seed: int = 0):
    rng = np.random.default_rng(seed)
    longer_B = np.round(rng.normal(0, 20, count))
    odds_B = level + effect * np.tanh(longer_B / longer_B.std())
    won_B = (rng.random(count) < 1 / (1 + np.exp(-odds_B))).astype(np.float64)
    return Sample(won_B, np.arange(count)), longer_B


def test_it_is_the_logistic_regression_of_statsmodels_with_a_robust_error():
    won, longer_B = drawn(20_000, 0.5, 1.2)
    found = length_controlled(won, longer_B)
    design = sm.add_constant(np.tanh(longer_B / longer_B.std()))
    fitted = sm.Logit(won.value_B, design).fit(disp=False, cov_type="HC0")
    assert found.share.value == pytest.approx(1 / (1 + np.exp(-fitted.params[0])), abs=1e-4)
    assert found.length_effect.value == pytest.approx(fitted.params[1], abs=2e-3)
    assert found.length_effect.high - found.length_effect.low == pytest.approx(2 * 1.96 * fitted.bse[1], rel=0.01)


def test_a_judge_that_only_likes_length_has_no_preference_at_equal_length():
    rng = np.random.default_rng(3)
    longer_B = rng.normal(15, 20, 400)  # one side is mostly longer
    won = Sample((longer_B + rng.normal(0, 4, 400) > 0).astype(np.float64), np.arange(400))
    found = length_controlled(won, longer_B)
    assert won.mean > 0.7
    assert found.share.low < 0.5 < found.share.high
    assert found.length_effect.low > 1


def test_separation_keeps_it_finite_and_ties_count_one_half():
    longer_B = np.concatenate([np.full(20, 5.0), np.full(20, -5.0)])
    won = Sample((longer_B > 0).astype(np.float64), np.arange(40))
    found = length_controlled(won, longer_B)
    assert found.share.value == pytest.approx(0.5)
    assert np.isfinite([found.length_effect.low, found.length_effect.high]).all()
    ties = Sample(np.full(40, 0.5), np.arange(40))
    assert length_controlled(ties, longer_B).share.value == pytest.approx(0.5)


def test_families_widen_it_and_nothing_is_said_of_too_few_or_of_equal_lengths():
    won, longer_B = drawn(60, 0.3, 0.5)
    five_times = Sample(np.repeat(won.value_B, 5), np.repeat(np.arange(60), 5))
    alone = Sample(np.repeat(won.value_B, 5), np.arange(300))
    wide, narrow = (length_controlled(sample, np.repeat(longer_B, 5)).share for sample in (five_times, alone))
    assert wide.value == narrow.value
    assert wide.high - wide.low > 1.8 * (narrow.high - narrow.low)
    assert length_controlled(won.where(np.arange(60) < 11), longer_B[:11]).share.value is None
    assert length_controlled(won, np.zeros(60)).share.value is None


@pytest.mark.parametrize(("middle", "spread"), [(10.0, 0.0), (10.0, 1.0), (50.0, 5.0), (-50.0, 5.0)])
def test_nothing_is_read_where_equal_length_is_outside_of_what_was_seen(middle, spread):
    for seed in range(6):
        draw = np.random.default_rng(seed)
        longer = draw.normal(middle, spread, 200)
        longer[0] += 1.0
        found = length_controlled(Sample((draw.random(200) < 0.6).astype(float), np.arange(200)), longer)
        assert found.share.value is found.length_effect.value is None
        assert found.share.n == 200


def test_ties_alone_have_no_interval():
    found = length_controlled(Sample(np.full(12, 0.5), np.arange(12)), np.arange(12.0))
    assert found.share.value == pytest.approx(0.5)
    assert found.share.low is found.share.high is None


def test_every_interval_is_finite_or_absent():
    for seed in range(200):
        draw = np.random.default_rng(seed)
        count = int(draw.integers(12, 40))
        longer = np.round(draw.normal(draw.normal(0, 20), draw.exponential(20), count))
        won = draw.choice([0.0, 0.5, 1.0], count, p=draw.dirichlet([0.3, 0.3, 0.3]))
        found = length_controlled(Sample(won, draw.integers(0, count, count)), longer)
        ends = [end for own in (found.share, found.length_effect) for end in (own.value, own.low, own.high)]
        assert all(end is None or np.isfinite(end) for end in ends)
