import math

import numpy as np
import pytest

from evenhand.errors import DataError
from evenhand.evaluation.calibration import calibration, temperature


def test_a_model_that_is_as_sure_as_it_is_right_has_temperature_one() -> None:
    draw = np.random.default_rng(0)
    size = np.abs(draw.normal(0, 2, 200_000))
    gap = np.where(draw.random(len(size)) < 1 / (1 + np.exp(-size)), size, -size)
    found = calibration(gap)
    assert found.temperature == pytest.approx(1.0, abs=0.02)
    assert found.error.value == pytest.approx(0.0, abs=0.005)
    twice = calibration(2 * gap)
    assert twice.temperature == pytest.approx(2.0, abs=0.04)
    assert twice.error.value > 0.05
    assert twice.log_loss.value > found.log_loss.value


def test_temperature_and_log_loss_by_hand() -> None:
    # Three of four right at one gap g: p = 3/4 at temperature g / ln 3.
    gap = np.array([2.0, 2.0, 2.0, -2.0])
    assert temperature(gap) == pytest.approx(2 / math.log(3), rel=1e-9)
    wanted = (3 * math.log(1 + math.exp(-2)) + math.log(1 + math.exp(2))) / 4
    found = calibration(gap)
    assert found.log_loss.value == pytest.approx(wanted, rel=1e-12)
    assert found.error.value == pytest.approx(1 / (1 + math.exp(-2)) - 0.75, rel=1e-12)
    assert [one.accuracy.n for one in found.bins] == [4]


@pytest.mark.parametrize("gap", [[1.0, 2.0], [-1.0, -2.0], [0.0, 0.0], [1.0, -1.0]])
def test_no_temperature_where_all_or_not_even_half_are_right(gap: list[float]) -> None:
    assert calibration(np.array(gap)).temperature is None


def test_a_tie_is_half_right_and_no_pair_is_refused() -> None:
    found = calibration(np.array([0.0, 3.0]))
    assert [(round(one.confidence, 3), one.accuracy.value) for one in found.bins] == [(0.5, 0.5), (0.953, 1.0)]
    with pytest.raises(DataError, match="no pair"):
        calibration(np.array([]))
