"""What a paired difference says where there are hardly any pairs."""

import numpy as np

from evenhand.evaluation.bootstrap import mcnemar
from evenhand.evaluation.contrast import contrast
from evenhand.evaluation.interval import Sample, spearman


def test_who_cannot_tell_yet_needs_one_more_pair_at_least() -> None:
    for count in (3, 4):
        found = contrast(Sample(np.ones(count), np.arange(count)))
        assert found.word == "undecided"
        assert found.more_pairs is not None
        assert found.more_pairs >= 1


def test_mcnemar_of_nothing_does_not_apply() -> None:
    assert mcnemar(Sample(np.zeros(0), np.arange(0))) is None


def test_a_rank_correlation_that_no_item_moves_has_no_interval() -> None:
    found = spearman(Sample(np.array([0.0, 0.0, 1.0, 1.0]), np.arange(4)), np.arange(4.0))
    assert (found.low, found.high, found.n) == (None, None, 4)
