"""One step: its gradient does not depend on the cut, its figures are the batch's own, and nothing broken gets past it."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from architectures import tiny
from golden import golden_pairs, golden_step
from small_training import OBJECTIVE, assert_same_bits, some_pairs, trained
from torch import Tensor

from evenhand.errors import NonFiniteError
from evenhand.model.encode import EncodedPair
from evenhand.model.forward import Policy
from evenhand.objectives.simpo import SimPO
from evenhand.training.goal import Goal
from evenhand.training.optim import MasterAdamW
from evenhand.training.plan import micro_batches
from evenhand.training.share import Share
from evenhand.training.step import StepResult, train_step

GOLDEN = json.loads((Path(__file__).parent / "golden_step.json").read_text())


def stepped(pairs: list[EncodedPair], budget: int) -> tuple[StepResult, dict[str, Tensor]]:
    """A first step without scaling down, and its gradient: AdamW's first moment is a tenth of it."""
    policy = Policy(tiny("llama"))
    optimizer = MasterAdamW(policy, 0.0)
    result = train_step(policy, Goal(OBJECTIVE), optimizer, Share.alone(micro_batches(pairs, budget)[0]), (1e-4, 1e9))
    return result, {name: 10 * t for name, t in optimizer.tensors() if name.startswith("exp_avg.")}


def means(model: torch.nn.Module, pair: EncodedPair) -> tuple[float, float]:
    """Mean log-probabilities of both answers from plain rows and full logits in float64."""
    found = []
    for one in (pair.chosen, pair.rejected):
        row = torch.from_numpy(one.tokens).long()
        with torch.no_grad():
            log_probs = torch.log_softmax(model(input_ids=row[None]).logits[0], dim=-1)
        steps = range(one.starts, len(row))
        found.append(math.fsum(float(log_probs[t - 1, row[t]]) for t in steps) / len(steps))
    return found[0], found[1]


def softplus(x: float) -> float:
    return math.log1p(math.exp(-abs(x))) + max(x, 0.0)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 11, 16, 23])
def test_no_cut_into_micro_batches_changes_gradient_or_figures(count: int) -> None:
    pairs = some_pairs(count, seed=count, largest_group=3)
    whole, wanted = stepped(pairs, 1 << 30)
    for budget in (1, 40, 77, 150, 400):
        result, gradient = stepped(pairs, budget)
        for name, value in wanted.items():
            assert float((gradient[name] - value).norm()) <= 1e-5 * float(value.norm()), (name, budget)
        assert (result.pairs, result.accuracy) == (count, whole.accuracy)
        for field in ("loss", "gap", "chosen_mean", "rejected_mean", "gradient_norm"):
            assert getattr(result, field) == pytest.approx(getattr(whole, field), rel=1e-5), (field, budget)


def test_the_figures_are_those_of_a_direct_computation() -> None:
    pairs = some_pairs(11, seed=4, largest_group=2)
    result, gradient = stepped(pairs, 90)
    model = tiny("llama").double()
    both = [means(model, pair) for pair in pairs]
    gaps = [chosen - rejected for chosen, rejected in both]
    assert result.pairs == 11
    assert result.loss == pytest.approx(sum(softplus(-2.0 * (gap - 0.5)) for gap in gaps) / 11, rel=1e-5)
    assert result.gap == pytest.approx(sum(gaps) / 11, rel=1e-4)
    assert result.accuracy == sum(gap > 0 for gap in gaps) / 11
    assert 0 < result.accuracy < 1
    assert result.chosen_mean == pytest.approx(sum(chosen for chosen, _ in both) / 11, rel=1e-5)
    assert result.rejected_mean == pytest.approx(sum(rejected for _, rejected in both) / 11, rel=1e-5)
    norm = math.sqrt(sum(float(value.double().square().sum()) for value in gradient.values()))
    assert result.gradient_norm == pytest.approx(norm, rel=1e-5)


def test_a_tie_counts_one_half() -> None:
    one = some_pairs(1)[0]
    same = EncodedPair(0, "tie", "0", one.chosen, one.chosen)
    policy = Policy(tiny("llama"))
    result = train_step(policy, Goal(OBJECTIVE), MasterAdamW(policy, 0.0), Share.alone([[same]]), (0.0, 1.0))
    assert (result.accuracy, result.gap) == (0.5, 0.0)
    assert result.loss == pytest.approx(1.313262, abs=1e-6)


def test_tokens_are_those_computed() -> None:
    pairs = some_pairs(6, seed=2)
    separate = sum(len(side.tokens) for pair in pairs for side in (pair.chosen, pair.rejected))
    shared = 0
    for pair in pairs:
        both = zip(pair.chosen.tokens, pair.rejected.tokens)
        shared += sum(1 for _ in itertools.takewhile(lambda ab: ab[0] == ab[1], both))
    result, _ = stepped(pairs, 1)
    assert result.tokens == separate - shared


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.0.self_attn.k_proj.weight", "lm_head.weight"])
def test_one_broken_number_stops_the_step_before_anything_moves(name: str, value: float) -> None:
    policy = Policy(tiny("llama"))
    optimizer = MasterAdamW(policy, 0.0)
    with torch.no_grad():
        policy.model.get_parameter(name).view(-1)[7] = value
    before = trained(policy)
    with pytest.raises(NonFiniteError, match=r"row \d+ \(id\d+\)"):
        train_step(policy, Goal(OBJECTIVE), optimizer, Share.alone([some_pairs(3)]), (1e-3, 1.0))
    assert_same_bits(
        {k: w.nan_to_num() for k, w in before.items()}, {k: w.nan_to_num() for k, w in trained(policy).items()}
    )
    assert not optimizer.adamw.state


def test_an_infinite_loss_names_its_rows_alone() -> None:
    policy = Policy(tiny("llama"))
    optimizer = MasterAdamW(policy, 0.0)
    used = {int(t) for pair in some_pairs(4) for s in (pair.chosen, pair.rejected) for t in s.tokens}
    unused = next(t for t in range(3, 199) if t not in used)
    pairs = some_pairs(4)
    pairs[2].chosen.tokens[pairs[2].chosen.starts] = unused
    with torch.no_grad():
        policy.model.get_input_embeddings().weight[unused] = math.nan
    before = trained(policy)
    with pytest.raises(NonFiniteError, match=r"not finite for row 2 \(id2\); nothing was changed"):
        train_step(policy, Goal(OBJECTIVE), optimizer, Share.alone([pairs]), (1e-3, 1.0))
    assert_same_bits(
        {k: w.nan_to_num() for k, w in before.items()}, {k: w.nan_to_num() for k, w in trained(policy).items()}
    )


def test_an_infinite_gradient_stops_before_the_optimizer() -> None:
    policy = Policy(tiny("llama"))
    optimizer = MasterAdamW(policy, 0.0)
    before = trained(policy)
    policy.model.get_input_embeddings().weight.register_hook(lambda gradient: gradient * math.inf)
    pairs = some_pairs(12)
    with pytest.raises(NonFiniteError, match=r"the gradient is not finite; it came from row 0 \(id0\).* and 2 more\."):
        train_step(policy, Goal(OBJECTIVE), optimizer, Share.alone([pairs[:6], pairs[6:]]), (1e-3, 1.0))
    assert_same_bits(before, trained(policy))


def test_the_golden_step() -> None:
    got = golden_step()
    assert got.keys() == GOLDEN.keys()
    for name, want in GOLDEN.items():
        assert math.isclose(got[name], want, rel_tol=1e-5), (
            f"{name} was {want!r} and is now {got[name]!r}. If you meant to change training, "
            f"run `python tests/training/golden.py` and say in the commit why the number moved."
        )


def test_the_golden_loss_is_right() -> None:
    model = tiny("llama").double()
    gaps = [chosen - rejected for chosen, rejected in (means(model, pair) for pair in golden_pairs())]
    loss = sum(softplus(-2.0 * (gap - 0.5)) for gap in gaps) / len(gaps)
    assert math.isclose(GOLDEN["loss"], loss, rel_tol=1e-5)
    assert GOLDEN["accuracy"] == sum(gap > 0 for gap in gaps) / len(gaps)
    assert SimPO(2.0, 0.5) == OBJECTIVE
