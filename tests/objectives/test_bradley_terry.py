import math
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from trl import RewardTrainer

from evenhand.errors import RecipeError
from evenhand.model.scores import PairScores
from evenhand.objectives.bradley_terry import BradleyTerry

CHOSEN, REJECTED, LONG, SHORT = (1.3, -0.4), (0.2, 0.9), (7, 3), (4, 9)


def rewards(requires_grad: bool = False) -> PairScores:
    """Two pairs of rewards, told as sums over their tokens."""
    tokens = torch.tensor(LONG), torch.tensor(SHORT)
    sums = [torch.tensor(r, dtype=torch.float64) * n for r, n in zip((CHOSEN, REJECTED), tokens)]
    return PairScores(*(s.requires_grad_(requires_grad) for s in sums), *tokens)


@pytest.mark.parametrize(("margin", "penalty", "center"), [(0, 0, 0), (0.7, 0, 0), (0, 0.1, 0), (0.3, -0.05, 0.01)])
def test_the_loss_by_hand_in_float64(margin: float, penalty: float, center: float) -> None:
    found = BradleyTerry(margin, penalty, center)(rewards()).tolist()
    for loss, c, r, long, short in zip(found, CHOSEN, REJECTED, LONG, SHORT):
        lead = c - r - margin + penalty * (long - short)
        assert loss == pytest.approx(math.log1p(math.exp(-lead)) + center * (c + r) ** 2, rel=1e-12)


def test_a_length_penalty_leaves_less_to_learn_from_longer_winners() -> None:
    def slopes(penalty: float) -> list[float]:
        scores = rewards(requires_grad=True)
        BradleyTerry(length_penalty=penalty)(scores).sum().backward()
        assert scores.chosen_sum_B.grad is not None
        return (scores.chosen_sum_B.grad * scores.chosen_tokens_B).tolist()

    plain, penalised = slopes(0.0), slopes(0.2)
    assert abs(penalised[0]) < abs(plain[0])  # chosen is longer
    assert abs(penalised[1]) > abs(plain[1])  # chosen is shorter


def test_gradients_are_right() -> None:
    loss = BradleyTerry(0.2, 0.1, 0.05)
    counts = torch.tensor(LONG), torch.tensor(SHORT)
    sums = [s.detach().requires_grad_() for s in (rewards().chosen_sum_B, rewards().rejected_sum_B)]
    assert torch.autograd.gradcheck(lambda a, b: loss(PairScores(a, b, *counts)), sums)


@pytest.mark.parametrize(
    ("values", "said"),
    [({"margin": math.inf}, "margin"), ({"center": -1.0}, "center"), ({"length_penalty": math.nan}, "length_penalty")],
)
def test_what_makes_no_loss_is_refused(values: dict[str, float], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        BradleyTerry(**values)


@pytest.mark.parametrize(("margin", "center"), [(0.0, None), (0.6, 0.02)])
def test_trl_has_the_same_loss(margin: float, center: float | None) -> None:
    logits = torch.tensor([*CHOSEN, *REJECTED], dtype=torch.float64)[:, None]
    itself = SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x)
    trainer = SimpleNamespace(
        model=torch.nn.Identity().eval(),
        args=SimpleNamespace(center_rewards_coefficient=center),
        accelerator=itself,
        _metrics={"eval": defaultdict(list)},
        _total_train_tokens=0,
    )
    inputs = {"margin": torch.tensor([margin, margin], dtype=torch.float64)}
    theirs = RewardTrainer.compute_loss(trainer, lambda **_: SimpleNamespace(logits=logits), inputs)
    ours = BradleyTerry(margin=margin, center=center or 0.0)(rewards()).mean()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
