"""A tally is the mean over everything counted, however it was cut."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evenhand.errors import DataError
from evenhand.objectives.tally import Tally

numbers = st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=1, max_size=40)


@given(values=numbers, cuts=st.lists(st.integers(0, 40), max_size=5))
def test_a_mean_does_not_depend_on_how_its_values_were_cut(values: list[float], cuts: list[int]) -> None:
    borders = [0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]
    total = Tally.of(torch.tensor([]))
    for start, end in pairwise(borders):
        total = total + Tally.of(torch.tensor(values[start:end], dtype=torch.float64))
    assert total.weight.item() == len(values)
    assert math.isclose(total.mean(), math.fsum(values) / len(values), rel_tol=1e-9, abs_tol=1e-6)


def test_unequal_batches_do_not_weigh_the_same() -> None:
    hits = Tally.of(torch.tensor([1.0, 1.0, 0.0, 0.0])) + Tally.of(torch.tensor([1.0, 1.0]))
    assert hits.mean() == pytest.approx(4 / 6, abs=1e-15)  # the mean of the batches' means would be 0.75


def test_a_long_sum_of_small_numbers_keeps_its_digits() -> None:
    total = Tally.of(torch.tensor([2.0**24]))
    for _ in range(8):
        total = total + Tally.of(torch.ones(1))
    assert total.total.item() == 2.0**24 + 8  # in fp32 each of the ones would be lost


def test_a_tally_holds_no_graph() -> None:
    weight = torch.ones(3, requires_grad=True)
    assert not Tally.of(weight * 2).total.requires_grad


def test_the_mean_of_nothing_is_an_error() -> None:
    with pytest.raises(DataError, match="no item was counted"):
        Tally.of(torch.tensor([])).mean()
