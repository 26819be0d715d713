"""Calibration on data whose calibration is known."""

import numpy as np
import pytest
from scipy.special import expit

from evenhand.evaluation.calibration import calibration


def gaps(count: int, true_beta: float, seed: int = 0) -> np.ndarray:
    """Chosen minus rejected, where the better answer wins with sigmoid(true_beta * |gap|)."""
    rng = np.random.default_rng(seed)
    size_B = np.abs(rng.normal(0, 1, count))
    return np.where(rng.random(count) < expit(true_beta * size_B), size_B, -size_B)


def test_a_model_whose_probability_is_true_is_calibrated():
    found = calibration(gaps(20_000, 2.0), np.arange(20_000), beta=2.0)
    assert found.overconfidence.low < 0 < found.overconfidence.high
    assert found.error.value < 0.02
    assert all(accuracy.low - 0.02 < confidence < accuracy.high + 0.02 for confidence, accuracy in found.bins)


def test_one_that_is_too_sure_is_found_out():
    found = calibration(gaps(2_000, 2.0), np.arange(2_000), beta=8.0)
    assert found.overconfidence.low > 0.05
    assert found.error.value == pytest.approx(found.overconfidence.value, abs=0.02)


def test_the_numbers_by_hand():
    found = calibration(np.array([1.0, -1.0, 0.0, 3.0]), np.arange(4), beta=1.0)
    p = expit(np.array([1.0, -1.0, 0.0, 3.0]))
    assert found.brier.value == pytest.approx(((1 - p) ** 2).mean())
    assert found.overconfidence.value == pytest.approx(np.maximum(p, 1 - p).mean() - 2.5 / 4)
    # Bins: one half alone, two at 0.731 of which one is right, one at 0.953.
    assert found.error.value == pytest.approx((0 + 2 * abs(expit(1.0) - 0.5) + abs(expit(3.0) - 1)) / 4)
    assert found.json()["bins"][0] == {"confidence": 0.5, "accuracy": found.bins[0][1].json()}


def test_gaps_of_any_size_stay_finite():
    found = calibration(np.array([1e9, -1e9]), np.arange(2), beta=10.0)
    assert found.brier.value == pytest.approx(0.5)
