"""The learning rate of every step against the formulas written out, and against transformers' schedules."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from evenhand.training.schedule import Schedule


def test_rates_written_out() -> None:
    cosine = Schedule("cosine", peak=2.0, warmup=0.2, steps=10)
    assert [cosine.rate(step) for step in range(3)] == [1.0, 2.0, 2.0]
    assert cosine.rate(6) == pytest.approx(1.0)  # half way down
    assert cosine.rate(9) == pytest.approx(1 + math.cos(math.pi * 7 / 8))
    constant = Schedule("constant", peak=3.0, warmup=0.0, steps=4)
    assert [constant.rate(step) for step in range(4)] == [3.0] * 4


@pytest.mark.parametrize(
    ("kind", "theirs"), [("cosine", get_cosine_schedule_with_warmup), ("linear", get_linear_schedule_with_warmup)]
)
def test_after_the_warm_up_rates_are_transformers_own(kind: str, theirs: object) -> None:
    steps, warm = 20, 4
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = theirs(optimizer, warm, steps)  # type: ignore[operator]
    ours = Schedule(kind, peak=0.5, warmup=warm / steps, steps=steps)  # type: ignore[arg-type]
    for step in range(steps):
        rate = optimizer.param_groups[0]["lr"]
        # Theirs warms up from zero, which wastes the first step; ours reaches the peak one step earlier.
        wanted = rate if step >= warm else 0.5 * (step + 1) / warm
        assert ours.rate(step) == pytest.approx(wanted, rel=1e-12)
        optimizer.step()
        schedule.step()


@given(
    kind=st.sampled_from(["cosine", "linear", "constant"]),
    warmup=st.floats(0, 1),
    steps=st.integers(1, 300),
)
def test_no_step_is_wasted_and_none_is_above_the_peak(kind: str, warmup: float, steps: int) -> None:
    schedule = Schedule(kind, peak=1.0, warmup=warmup, steps=steps)  # type: ignore[arg-type]
    rates = [schedule.rate(step) for step in range(steps)]
    assert all(0 < rate <= 1.0 for rate in rates)
    warm = math.ceil(warmup * steps)
    assert rates[:warm] == sorted(rates[:warm])
    assert rates[warm:] == sorted(rates[warm:], reverse=True)
    assert max(rates) == 1.0
