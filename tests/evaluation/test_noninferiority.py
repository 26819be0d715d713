"""Equal models pass at least 95 of 100 gates at the n that the policy prints, and planted losses are caught as often."""

import numpy as np
import pytest

from evenhand.evaluation.behaviour import Item
from evenhand.evaluation.noninferiority import (
    Margin,
    Word,
    detectable,
    items_needed,
    word_for,
    word_for_difference,
)
from evenhand.figure import Figure
from evenhand.lifecycle.check import Check, share_check
from evenhand.lifecycle.policy import Policy, ShareCheck

SHARES = {name: value for name, value in Policy() if isinstance(value, ShareCheck)}
TASKS = ("extraction", "json_format")
TOGETHER = ShareCheck(items=sum(SHARES[name].items for name in TASKS), margin=Policy().tasks or 1, flips=0.15)
GATES = 1000


def items(right_B: np.ndarray) -> list[Item]:
    return [Item(float(right), (), "") for right in right_B]


def check_of(candidate_B: np.ndarray, incumbent_B: np.ndarray, share: ShareCheck) -> Check:
    return share_check("x", "", (items(candidate_B), items(incumbent_B)), Margin(share.margin), share.flips)


def two_models(
    draw: np.random.Generator, count: int, rates: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Right and wrong of candidate and incumbent: `rates` are accuracy, items gained and items lost."""
    accuracy, gained, lost = rates
    both = accuracy - lost
    kind_B = draw.choice(4, size=count, p=[both, lost, gained, 1 - both - lost - gained])
    return (kind_B == 0) | (kind_B == 2), (kind_B == 0) | (kind_B == 1)


@pytest.mark.parametrize("name", SHARES)
def test_the_policys_items_are_enough_for_its_margin(name: str) -> None:
    share = SHARES[name]
    assert share.items >= items_needed(share.margin, share.flips)


def test_all_tasks_together_are_enough_for_their_margin() -> None:
    assert TOGETHER.items >= items_needed(TOGETHER.margin, TOGETHER.flips)


def test_equal_models_that_differ_row_by_row_pass_a_whole_gate() -> None:
    draw = np.random.default_rng(0)
    passed = 0
    for _ in range(GATES):
        models = {
            name: two_models(draw, share.items, (0.6, share.flips / 2, share.flips / 2))
            for name, share in SHARES.items()
        }
        checks = [check_of(*sides, SHARES[name]) for name, sides in models.items()]
        candidate_B, incumbent_B = (np.concatenate([models[name][side] for name in TASKS]) for side in (0, 1))
        checks.append(check_of(candidate_B, incumbent_B, TOGETHER))
        passed += all(check.passed for check in checks)
    assert passed >= 0.95 * GATES


@pytest.mark.parametrize("share", [*SHARES.values(), TOGETHER], ids=[*SHARES, "tasks"])
def test_a_planted_loss_of_the_margins_size_is_caught(share: ShareCheck) -> None:
    draw = np.random.default_rng(1)
    gained = share.flips / 4
    lost = gained + share.margin
    found = [check_of(*two_models(draw, share.items, (0.6, gained, lost)), share).passed for _ in range(GATES)]
    assert sum(found) <= 0.05 * GATES


def test_stored_items_resampled_pass_and_their_planted_losses_are_caught() -> None:
    """On rows kept from two models of equal quality, drawn again with replacement as bootstrap does."""
    share = ShareCheck(items=150, margin=0.15, flips=0.15)
    draw = np.random.default_rng(2)
    candidate_B, incumbent_B = two_models(draw, share.items, (0.55, 0.075, 0.075))
    surplus = int(candidate_B.sum() - incumbent_B.sum())
    candidate_B[np.flatnonzero(candidate_B & ~incumbent_B)[: max(0, surplus)]] = False  # now equal on these very rows
    candidate_B[np.flatnonzero(~candidate_B & incumbent_B)[: max(0, -surplus)]] = True
    assert candidate_B.sum() == incumbent_B.sum()
    planted_B = candidate_B.copy()
    planted_B[draw.choice(np.flatnonzero(planted_B), size=round(share.margin * share.items) + 1, replace=False)] = False
    passed = caught = 0
    for _ in range(GATES):
        rows_B = draw.integers(0, share.items, share.items)
        passed += check_of(candidate_B[rows_B], incumbent_B[rows_B], share).passed
        caught += not check_of(planted_B[rows_B], incumbent_B[rows_B], share).passed
    assert passed >= 0.95 * GATES
    assert caught >= 0.95 * GATES


@pytest.mark.parametrize("accuracy", [0.0, 0.1, 0.14])
def test_an_incumbent_without_skill_cannot_be_lost_against(accuracy: float) -> None:
    share = ShareCheck(items=150, margin=0.15, flips=0.15)
    right_B = np.arange(150) < round(accuracy * 150)
    found = check_of(right_B, right_B, share)
    assert (found.word, found.passed) == ("cannot detect", False)
    better = check_of(np.ones(150, dtype=bool), right_B, share)
    assert (better.word, better.passed) == ("cannot detect", False)


@pytest.mark.parametrize(
    ("difference", "word"),
    [
        (Figure(0.0, 200, -0.04, 0.04), "not worse"),
        (Figure(-0.06, 200, -0.099, -0.02), "not worse"),  # worse, but by less than is accepted
        (Figure(0.0, 40, -0.2, 0.2), "undecided"),
        (Figure(-0.2, 200, -0.3, -0.1), "worse"),
        (Figure(-0.05, 200, -0.1, 0.0), "undecided"),
        (Figure(None, 0), "not run"),
    ],
)
def test_the_interval_is_held_against_the_margin(difference: Figure, word: Word) -> None:
    sure = Figure(0.8, 200, 0.74, 0.85)
    assert word_for(sure, sure, difference, Margin(0.1)) == word
    assert word_for_difference(difference, 0.1) == word


def test_pairs_are_held_against_one_half() -> None:
    same = Figure(0.0, 400, -0.02, 0.02)
    weak, good = Figure(0.53, 400, 0.48, 0.58), Figure(0.7, 400, 0.65, 0.74)
    assert word_for(weak, weak, same, Margin(0.05, chance=0.5)) == "cannot detect"
    assert word_for(good, good, same, Margin(0.05, chance=0.5)) == "not worse"


def test_what_could_be_seen_is_said() -> None:
    assert detectable(Figure(0.0, 200, -0.04, 0.06)) == pytest.approx(0.05)
    assert detectable(Figure(None, 0)) is None
