"""One suite for all objectives: what each says of itself is true where it says so, and false where it does not."""

import math
from dataclasses import asdict
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evenhand.errors import RecipeError
from evenhand.model.scores import PairScores
from evenhand.objectives.bradley_terry import BradleyTerry
from evenhand.objectives.cpo import CPO
from evenhand.objectives.dpo import DPO
from evenhand.objectives.hinge import Hinge, SLiC
from evenhand.objectives.ipo import IPO
from evenhand.objectives.kto import KTO
from evenhand.objectives.objective import Objective
from evenhand.objectives.orpo import ORPO
from evenhand.objectives.rdpo import RDPO
from evenhand.objectives.simpo import SimPO
from evenhand.objectives.supervised import Supervised

OBJECTIVES: dict[str, Objective] = {
    "simpo": SimPO(2.0, 0.5),
    "simpo smoothed": SimPO(2.0, 0.5, label_smoothing=0.1),
    "cpo-simpo": SimPO(2.0, 0.5, sft_weight=0.3),
    "dpo": DPO(0.1),
    "dpo smoothed": DPO(0.1, label_smoothing=0.1),
    "dpo robust": DPO(0.1, label_smoothing=0.1, robust=True),
    "dpo normalised": DPO(2.0, length_normalised=True),
    "ipo": IPO(0.5),
    "ipo of sums": IPO(0.1, length_normalised=False),
    "hinge": Hinge(0.1),
    "slic": SLiC(2.0, 0.1),
    "slic without sft": SLiC(2.0, 0.0),
    "rdpo": RDPO(0.1, 0.01),
    "cpo": CPO(0.1, 1.0),
    "cpo smoothed without sft": CPO(0.1, 0.0, label_smoothing=0.2),
    "orpo": ORPO(0.1),
    "kto": KTO(0.1, baseline=0.7),
    "sft": Supervised(),
    "reward": BradleyTerry(margin=0.5),
    "reward with length": BradleyTerry(length_penalty=0.05),
}
every = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)


def scores(chosen: list[float], rejected: list[float], counts: tuple[int, int] = (10, 5)) -> PairScores:
    sums = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (chosen, rejected)]
    return PairScores(*sums, *(torch.full((len(chosen),), count) for count in counts))


REFERENCE = scores([-14.0], [-9.0])


def loss_at(objective: Objective, chosen: float, rejected: float, reference: PairScores = REFERENCE) -> float:
    return objective(scores([chosen], [rejected]), reference).item()


def gradients(objective: Objective, policy: PairScores, reference: PairScores) -> tuple[Tensor, Tensor]:
    loss = objective(policy, reference).sum()
    chosen, rejected = torch.autograd.grad(loss, (policy.chosen_sum_B, policy.rejected_sum_B), allow_unused=True)
    assert chosen is not None
    return chosen, torch.zeros_like(chosen) if rejected is None else rejected


@every
def test_winner_is_pushed_up_and_loser_down_at_the_start(objective: Objective) -> None:
    same = scores([-20.0, -5.0], [-20.0, -5.0], (10, 10))
    chosen, rejected = gradients(objective, same, same.detached())
    assert (chosen < 0).all()
    if objective.traits.examples == "answers":
        assert (rejected == 0).all()  # there is no loser
    else:
        assert (rejected > 0).all()


@every
@settings(max_examples=40)
@given(gaps=st.lists(st.floats(-60, 13.9), min_size=2, max_size=2).map(sorted))
def test_a_likelier_winner_never_costs_more_where_that_is_said(objective: Objective, gaps: list[float]) -> None:
    if objective.traits.wider_gap_never_costs_more:
        narrow, wide = (loss_at(objective, -14.0 + gap, -9.0) for gap in gaps)
        assert wide <= narrow + 1e-12


@pytest.mark.parametrize(
    "name", [name for name, o in OBJECTIVES.items() if not o.traits.wider_gap_never_costs_more], ids=str
)
def test_where_it_is_not_said_a_gap_can_be_too_wide(name: str) -> None:
    losses = [loss_at(OBJECTIVES[name], chosen, -400.0, scores([-400.0], [-400.0])) for chosen in range(-400, 0, 2)]
    assert min(losses) < losses[-1] - 1e-6


def test_which_objectives_can_overshoot() -> None:
    told = {name for name, objective in OBJECTIVES.items() if not objective.traits.wider_gap_never_costs_more}
    assert told == {"simpo smoothed", "dpo smoothed", "ipo", "ipo of sums", "cpo smoothed without sft"}


@every
def test_only_the_gap_counts_where_that_is_said(objective: Objective) -> None:
    chosen_shift, rejected_shift = (10.0, 5.0) if objective.traits.length_normalised else (3.0, 3.0)
    one = loss_at(objective, -15.0, -12.0)
    other = loss_at(objective, -15.0 - chosen_shift, -12.0 - rejected_shift)
    assert (abs(one - other) < 1e-12) == objective.traits.only_gap_counts


@every
def test_doubling_sums_and_counts_changes_nothing_where_that_is_said(objective: Objective) -> None:
    once = objective(scores([-20.0], [-12.0], (10, 5)), scores([-18.0], [-14.0], (10, 5))).item()
    twice = objective(scores([-40.0], [-24.0], (20, 10)), scores([-36.0], [-28.0], (20, 10))).item()
    assert (once == pytest.approx(twice, rel=1e-12)) == objective.traits.length_normalised


@every
@pytest.mark.parametrize("gap", [-1e6, -1.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_extreme_sums_stay_finite(objective: Objective, gap: float, dtype: torch.dtype) -> None:
    sums = [torch.tensor([min(gap, 0.0)], dtype=dtype), torch.tensor([-max(gap, 0.0)], dtype=dtype)]
    policy = PairScores(*(x.requires_grad_() for x in sums), *[torch.ones(1)] * 2)
    reference = PairScores(*[torch.zeros(1, dtype=dtype)] * 2, *[torch.ones(1)] * 2)
    assert torch.isfinite(objective(policy, reference)).all()
    assert all(torch.isfinite(part).all() for part in gradients(objective, policy, reference))


@every
def test_gradcheck(objective: Objective) -> None:
    counts = torch.tensor([3, 7]), torch.tensor([4, 2])
    sums = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in ([-4.0, -9.0], [-7.0, -2.0])]
    reference = PairScores(*(torch.tensor(x, dtype=torch.float64) for x in ([-5.0, -8.0], [-6.5, -3.0])), *counts)
    assert torch.autograd.gradcheck(lambda a, b: objective(PairScores(a, b, *counts), reference), sums)


@every
@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_cut_in_parts_gives_the_same_gradient(objective: Objective, parts: int) -> None:
    sums = [-20.0, -3.5, -8.0, -61.0], [-11.0, -4.0, -8.5, -60.0]
    start = [-19.0, -4.5, -8.0, -60.0], [-12.0, -3.0, -9.5, -61.0]
    whole = torch.stack(gradients(objective, scores(*sums), scores(*start)))
    step = 4 // parts
    cut = [
        torch.stack(
            gradients(objective, scores(*(x[i : i + step] for x in sums)), scores(*(x[i : i + step] for x in start)))
        )
        for i in range(0, 4, step)
    ]
    assert torch.equal(torch.cat(cut, dim=1), whole)


@every
def test_the_reference_counts_where_it_is_needed_and_only_there(objective: Objective) -> None:
    policy = scores([-15.0], [-12.0])
    if not objective.traits.needs_reference:
        assert objective(policy).item() == objective(policy, REFERENCE).item()
        return
    with pytest.raises(AssertionError):
        objective(policy)
    assert objective(policy, REFERENCE).item() != objective(policy, scores([-13.0], [-11.0])).item()


@every
def test_a_better_answer_has_the_higher_reward(objective: Objective) -> None:
    chosen, rejected = objective.rewards(scores([-5.0], [-30.0]), scores([-10.0], [-10.0]))
    assert (chosen > rejected).all()


PAIR = (-15.0, -12.0, -14.0, -9.0)  # chosen, rejected, and the reference's; 10 and 5 tokens
RATIO = (-15.0 + 14.0) - (-12.0 + 9.0)
MEAN_RATIO = (-15.0 + 14.0) / 10 - (-12.0 + 9.0) / 5


def soft(x: float) -> float:
    """-log sigmoid(x)."""
    return math.log1p(math.exp(-x))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def odds(mean: float) -> float:
    return mean - math.log(1 - math.exp(mean))


GOLDEN = {
    "simpo": soft(2.0 * (-1.5 + 2.4 - 0.5)),
    "cpo-simpo": soft(2.0 * (-1.5 + 2.4 - 0.5)) + 0.3 * 1.5,
    "dpo": soft(0.1 * RATIO),
    "dpo smoothed": 0.9 * soft(0.1 * RATIO) + 0.1 * soft(-0.1 * RATIO),
    "dpo robust": (0.9 * soft(0.1 * RATIO) - 0.1 * soft(-0.1 * RATIO)) / 0.8,
    "dpo normalised": soft(2.0 * MEAN_RATIO),
    "ipo": (MEAN_RATIO - 1.0) ** 2,
    "ipo of sums": (RATIO - 5.0) ** 2,
    "hinge": max(0.0, 1 - 0.1 * RATIO),
    "slic": max(0.0, 2.0 - (-15.0 + 12.0)) + 0.1 * 1.5,
    "rdpo": soft(0.1 * RATIO + 0.01 * 5),
    "cpo": soft(0.1 * (-15.0 + 12.0)) + 1.5,
    "cpo smoothed without sft": 0.8 * soft(-0.3) + 0.2 * soft(0.3),
    "orpo": 1.5 + 0.1 * soft(odds(-1.5) - odds(-2.4)),
    "kto": (1 - sigmoid(0.1 * (-1.0 - 0.7))) + (1 - sigmoid(0.1 * (0.7 + 3.0))),
    "sft": 15.0,
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_loss_is_its_formula_worked_out_by_hand(name: str) -> None:
    assert loss_at(OBJECTIVES[name], *PAIR[:2]) == pytest.approx(GOLDEN[name], rel=1e-12)


@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0, 5.0])
def test_dpo_at_its_reference_costs_log_two(beta: float) -> None:
    for objective in (DPO(beta), DPO(beta, label_smoothing=0.2), DPO(beta, length_normalised=True)):
        assert objective(REFERENCE, REFERENCE).item() == pytest.approx(0.693147, abs=1e-6)


def test_kto_takes_one_side_as_it_takes_both() -> None:
    objective = KTO(0.1, desirable_weight=1.3, undesirable_weight=0.7, baseline=0.4)
    up = PairScores(*(torch.tensor([x], dtype=torch.float64) for x in (-15.0, 0.0, 10, 0)))
    down = PairScores(*(torch.tensor([x], dtype=torch.float64) for x in (0.0, -12.0, 0, 5)))
    both = loss_at(objective, -15.0, -12.0)
    starts = [PairScores(*(torch.tensor([x]) for x in line)) for line in ((-14.0, 0.0, 10, 0), (0.0, -9.0, 0, 5))]
    parts = [objective(own, start).item() for own, start in zip((up, down), starts)]
    assert sum(parts) == pytest.approx(both, rel=1e-12)
    assert parts[0] == pytest.approx(1.3 * (1 - sigmoid(0.1 * (-1.0 - 0.4))), rel=1e-6)
    assert objective.with_baseline(-3.0).baseline == 0.0


@pytest.mark.parametrize(
    ("make", "key"),
    [
        *((make, "beta") for make in (DPO, IPO, Hinge, ORPO, KTO)),
        (lambda value: RDPO(value, 0.1), "beta"),
        (lambda value: CPO(value, 0.1), "beta"),
        (lambda value: SLiC(value, 0.1), "delta"),
        (lambda value: KTO(0.1, desirable_weight=value), "desirable_weight"),
        (lambda value: KTO(0.1, undesirable_weight=value), "undesirable_weight"),
    ],
)
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_number_that_makes_no_objective_is_refused_by_name(make: Any, key: str, value: float) -> None:
    with pytest.raises(RecipeError, match=f"objective.{key}` is {value}"):
        make(value)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: DPO(0.1, label_smoothing=0.5), "label_smoothing"),
        (lambda: CPO(0.1, 1.0, label_smoothing=-0.1), "label_smoothing"),
        (lambda: DPO(0.1, robust=True), "robust"),
        (lambda: RDPO(0.1, -1.0), "alpha"),
        (lambda: CPO(0.1, -1.0), "sft_weight"),
        (lambda: SLiC(1.0, math.nan), "sft_weight"),
    ],
)
def test_what_contradicts_itself_is_refused_by_name(make: Any, key: str) -> None:
    with pytest.raises(RecipeError, match=f"objective.{key}"):
        make()


@every
def test_an_objective_is_its_numbers(objective: Objective) -> None:
    assert type(objective)(**asdict(objective)) == objective
    for name in asdict(objective):
        with pytest.raises(AttributeError):
            setattr(objective, name, 3.0)
