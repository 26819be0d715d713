"""SimPO against numbers worked out by hand, and the properties that hold for it and for its variants."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from evenhand.errors import RecipeError
from evenhand.model.scores import PairScores
from evenhand.objectives.simpo import SimPO

PLAIN = SimPO(beta=2.0, margin=0.5)
SMOOTHED = replace(PLAIN, label_smoothing=0.1)
HINGE = replace(PLAIN, hinge=True)
SFT = replace(PLAIN, sft_weight=0.3)
ALL = {"plain": PLAIN, "smoothed": SMOOTHED, "hinge": HINGE, "sft": SFT, "gemma2": SimPO(beta=10.0, margin=0.5)}
every_objective = pytest.mark.parametrize("objective", ALL.values(), ids=ALL)


def scores(chosen: list[float], rejected: list[float], counts: tuple[int, int] = (10, 5)) -> PairScores:
    """Pairs with these sums, in float64, ready for a gradient."""
    sums = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (chosen, rejected)]
    return PairScores(*sums, *(torch.full((len(chosen),), count) for count in counts))


def at_gap(gap: float, rejected_mean: float = -2.0) -> PairScores:
    """One pair with one token a side, so that sums are means."""
    return scores([rejected_mean + gap], [rejected_mean], (1, 1))


def gradient_of(objective: SimPO, policy: PairScores) -> tuple[Tensor, Tensor]:
    chosen, rejected = torch.autograd.grad(objective(policy).sum(), (policy.chosen_sum_B, policy.rejected_sum_B))
    return chosen, rejected


@pytest.mark.parametrize(
    ("objective", "loss"),
    [(PLAIN, 1.313262), (SimPO(10.0, 0.3), 3.048587), (SimPO.from_paper(0.1, 0.5), 0.974077)],
    ids=["guide", "llama3-v0.2", "trl-defaults"],
)
def test_loss_at_gap_zero(objective: SimPO, loss: float) -> None:
    assert objective(scores([-20.0], [-10.0])).item() == pytest.approx(loss, abs=1e-6)


def test_published_margin_of_rewards() -> None:
    chosen, rejected = SimPO(10.0, 0.5).rewards(scores([-1.572], [-1.980], (1, 1)))
    assert (chosen - rejected).item() == pytest.approx(4.08, abs=1e-9)
    assert (chosen.item(), rejected.item()) == pytest.approx((-15.72, -19.80), abs=1e-9)


@pytest.mark.parametrize("gap", [-3.0, -0.4, 0.0, 0.5, 2.5])
def test_every_variant_is_its_formula(gap: float) -> None:
    lead = 2.0 * (gap - 0.5)
    right, wrong = math.log1p(math.exp(-lead)), math.log1p(math.exp(lead))
    found = {name: ALL[name](at_gap(gap)).item() for name in ("plain", "smoothed", "hinge", "sft")}
    assert found["plain"] == pytest.approx(right, rel=1e-12)
    assert found["smoothed"] == pytest.approx(0.9 * right + 0.1 * wrong, rel=1e-12)
    assert found["hinge"] == pytest.approx(max(0.0, 1 - lead), abs=1e-12)
    assert found["sft"] == pytest.approx(right - 0.3 * (-2.0 + gap), rel=1e-12)


@given(gap=st.floats(-30, 30), beta=st.floats(0.1, 20), margin=st.floats(0, 5))
def test_gradient_is_minus_beta_times_a_sigmoid(gap: float, beta: float, margin: float) -> None:
    chosen, rejected = gradient_of(SimPO(beta, margin), at_gap(gap))
    exponent = beta * (gap - margin)
    wanted = -beta / (1 + math.exp(min(exponent, 700)))
    assert chosen.item() == pytest.approx(wanted, rel=1e-9, abs=1e-300)
    assert rejected.item() == pytest.approx(-wanted, rel=1e-9, abs=1e-300)


def test_gradient_in_a_sum_is_divided_by_its_own_length() -> None:
    chosen, rejected = gradient_of(PLAIN, scores([-20.0], [-10.0], (10, 5)))
    weight = 2.0 / (1 + math.exp(-1.0))
    assert chosen.item() == pytest.approx(-weight / 10, rel=1e-12)
    assert rejected.item() == pytest.approx(weight / 5, rel=1e-12)


@every_objective
def test_winner_is_pushed_up_and_loser_down(objective: SimPO) -> None:
    chosen, rejected = gradient_of(objective, scores([-20.0, -5.0], [-20.0, -9.0], (10, 10)))
    assert (chosen < 0).all()
    assert (rejected > 0).all()


@given(gaps=st.lists(st.floats(-50, 50), min_size=2, max_size=2).map(sorted))
def test_wider_gap_never_costs_more(gaps: list[float]) -> None:
    for objective in (PLAIN, HINGE, SFT):
        narrow, wide = (objective(at_gap(gap)).item() for gap in gaps)
        assert wide <= narrow


def test_with_smoothing_a_gap_can_be_too_wide() -> None:
    best = 0.5 + math.log(0.9 / 0.1) / 2.0  # where (1 - e) sigmoid(-lead) = e sigmoid(lead)
    chosen, _ = gradient_of(SMOOTHED, at_gap(best))
    assert chosen.item() == pytest.approx(0.0, abs=1e-12)
    losses = [SMOOTHED(at_gap(best + shift)).item() for shift in (-1.0, 0.0, 1.0)]
    assert losses[1] < min(losses[0], losses[2])


@every_objective
@pytest.mark.parametrize("gap", [-1e6, 1e6])
def test_extreme_gaps_stay_finite(objective: SimPO, gap: float) -> None:
    for dtype in (torch.float32, torch.float64):
        policy = PairScores(
            *(torch.tensor([x], dtype=dtype, requires_grad=True) for x in (gap, 0.0)), *[torch.ones(1)] * 2
        )
        assert torch.isfinite(objective(policy)).all()
        assert all(torch.isfinite(gradient).all() for gradient in gradient_of(objective, policy))


@every_objective
def test_gradcheck(objective: SimPO) -> None:
    counts = torch.tensor([3, 7]), torch.tensor([4, 2])
    sums = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in ([-4.0, -9.0], [-7.0, -2.0])]
    assert torch.autograd.gradcheck(lambda a, b: objective(PairScores(a, b, *counts)), sums)


@every_objective
@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_cut_in_parts_gives_the_same_gradient(objective: SimPO, parts: int) -> None:
    sums = [-20.0, -3.5, -8.0, -61.0], [-11.0, -4.0, -8.5, -60.0]
    whole = torch.stack(gradient_of(objective, scores(*sums)))
    step = 4 // parts
    cut = [torch.stack(gradient_of(objective, scores(*(x[i : i + step] for x in sums)))) for i in range(0, 4, step)]
    assert torch.equal(torch.cat(cut, dim=1), whole)


@every_objective
def test_unchanged_when_sums_and_counts_double(objective: SimPO) -> None:
    once, twice = scores([-20.0], [-12.0], (10, 5)), scores([-40.0], [-24.0], (20, 10))
    assert objective(twice).item() == objective(once).item()


@pytest.mark.parametrize("objective", [PLAIN, SMOOTHED, HINGE], ids=["plain", "smoothed", "hinge"])
def test_only_the_gap_counts(objective: SimPO) -> None:
    assert objective(at_gap(0.3, -2.0)).item() == pytest.approx(objective(at_gap(0.3, -5.0)).item(), rel=1e-12)


def test_the_sft_term_counts_the_level_too() -> None:
    lower, upper = SFT(at_gap(0.3, -5.0)).item(), SFT(at_gap(0.3, -2.0)).item()
    assert lower - upper == pytest.approx(0.3 * 3.0, rel=1e-12)


def test_from_paper_and_back() -> None:
    objective = SimPO.from_paper(beta=2.5, gamma=1.375)
    assert (objective.beta, objective.margin) == (2.5, pytest.approx(0.55))
    assert objective.paper_gamma == pytest.approx(1.375)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"beta": 0.0}, "beta"),
        ({"beta": -1.0}, "beta"),
        ({"beta": math.nan}, "beta"),
        ({"beta": math.inf}, "beta"),
        ({"margin": math.nan}, "margin"),
        ({"margin": -math.inf}, "margin"),
        ({"label_smoothing": 0.5}, "label_smoothing"),
        ({"label_smoothing": -0.1}, "label_smoothing"),
        ({"label_smoothing": math.nan}, "label_smoothing"),
        ({"hinge": True, "label_smoothing": 0.1}, "hinge"),
        ({"sft_weight": -0.1}, "sft_weight"),
        ({"sft_weight": math.nan}, "sft_weight"),
    ],
    ids=str,
)
def test_values_that_make_no_objective_are_refused(values: dict[str, float], key: str) -> None:
    with pytest.raises(RecipeError, match=f"objective.{key}"):
        SimPO(**({"beta": 2.0, "margin": 0.5} | values))


@pytest.mark.parametrize("beta", [0.0, -2.0])
def test_from_paper_refuses_a_beta_that_makes_no_margin(beta: float) -> None:
    with pytest.raises(RecipeError, match="beta"):
        SimPO.from_paper(beta=beta, gamma=1.0)
