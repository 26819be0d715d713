"""PPO's losses by hand, and one whole step against a second, plain way of computing it."""

import copy
import math

import numpy as np
import pytest
import torch
from bandit import TASKS, serving
from small_model import small_llama

from evenhand.model.forward import Policy
from evenhand.online.learner import Learner
from evenhand.online.ppo import Clips, Tokens, losses
from evenhand.online.practice import PPO, Practice, gather, learn
from evenhand.online.rewards import Reward
from evenhand.online.rollout import Draw, Drawn, draw
from evenhand.training.optim import MasterAdamW
from evenhand.training.sections import TrainingSection

CLIPS = Clips(ratio=0.2, value=0.2, value_weight=0.1)
KL, GAMMA, LAMBDA, RATE = 0.05, 1.0, 0.95, 1e-3


def one_token(ratio: float, advantage: float, value: float = 0.0, old: float = 0.0, goal: float = 0.0):
    """The losses of one token, and the gradients of its log-probability and value."""
    log_prob = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    now = torch.tensor([value], dtype=torch.float64, requires_grad=True)
    before = Tokens(*(torch.tensor([x], dtype=torch.float64) for x in (0.0, old, advantage, goal)))
    found = losses(log_prob, now, before, CLIPS)
    found.total.backward()
    return found, log_prob.grad.item(), now.grad.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope", "clipped"),
    [
        (1.0, 2.0, -2.0, -2.0, 0),  # nothing has moved: the plain policy gradient
        (1.1, 2.0, -2.2, -2.2, 0),
        (1.5, 2.0, -2.4, 0.0, 1),  # a good token is likelier already: no more push
        (0.5, 2.0, -1.0, -1.0, 0),  # a good token got less likely: the full push back
        (0.5, -2.0, 1.6, 0.0, 1),  # a bad token is less likely already
        (1.5, -2.0, 3.0, 3.0, 0),  # a bad token got likelier: the full push
    ],
)
def test_the_clipped_objective(ratio: float, advantage: float, loss: float, slope: float, clipped: int) -> None:
    found, gradient, _ = one_token(ratio, advantage)
    assert found.policy.item() == pytest.approx(loss)
    assert gradient == pytest.approx(slope)
    assert found.clipped.item() == clipped
    assert found.kl.item() == pytest.approx(ratio - 1 - math.log(ratio))


@pytest.mark.parametrize(
    ("value", "old", "goal", "loss", "slope"),
    [
        (0.1, 0.0, 1.0, 0.5 * 0.81, -0.9),  # within the clip
        (0.5, 0.0, 1.0, 0.5 * 0.64, 0.0),  # further than the clip towards the return: held
        (-0.5, 0.0, 1.0, 0.5 * 2.25, -1.5),  # away from it: the plain error is the larger
    ],
)
def test_the_clipped_value_loss(value: float, old: float, goal: float, loss: float, slope: float) -> None:
    found, _, gradient = one_token(1.0, 0.0, value, old, goal)
    assert found.value.item() == pytest.approx(loss)
    assert gradient == pytest.approx(0.1 * slope)


def letters(replies: list[str]) -> list[float]:
    return [float(len(reply)) for reply in replies]


def plain_step(model, head, replies: list[Drawn]) -> tuple[dict[str, float], float]:
    """One PPO step without anything of evenhand: rows one by one, loops, torch's own AdamW. Returns gradients' norm."""
    rows, advantages, returns, old, values = [], [], [], [], []
    with torch.no_grad():
        for reply in replies:
            tokens = torch.from_numpy(reply.tokens.tokens.astype(np.int64))
            log_prob, value = plain_tokens(model, head, tokens, reply.tokens.starts)
            gain = [0.0] * len(value)  # the reference is the policy itself: no distance yet
            gain[-1] += len(reply.text)
            advantage, following = [0.0] * len(value), 0.0
            for t in reversed(range(len(value))):
                after = value[t + 1].item() if t + 1 < len(value) else 0.0
                following = gain[t] + GAMMA * after - value[t].item() + GAMMA * LAMBDA * following
                advantage[t] = following
            rows.append((tokens, reply.tokens.starts))
            advantages += advantage
            returns += [a + v.item() for a, v in zip(advantage, value)]
            old.append(log_prob)
            values.append(value)
    scale = (np.var(advantages) + 1e-8) ** -0.5
    white = [(a - np.mean(advantages)) * scale for a in advantages]
    weights = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.0)
    total, at = torch.zeros(()), 0
    for (tokens, starts), before, value_before in zip(rows, old, values):
        log_prob, value = plain_tokens(model, head, tokens, starts)
        for t in range(len(value)):
            ratio = (log_prob[t] - before[t]).exp()
            total = total - torch.minimum(white[at] * ratio, white[at] * ratio.clamp(0.8, 1.2))
            near = value_before[t] + (value[t] - value_before[t]).clamp(-0.2, 0.2)
            total = total + 0.1 * 0.5 * torch.maximum((value[t] - returns[at]) ** 2, (near - returns[at]) ** 2)
            at += 1
    (total / at).backward()
    norm = float(torch.nn.utils.clip_grad_norm_(weights, 1.0))
    optimizer.step()
    return {"tokens": float(at)}, norm


def plain_tokens(model, head, tokens, starts: int):
    out = model(input_ids=tokens[None], output_hidden_states=True)
    logits = out.logits[0, starts - 1 : -1].log_softmax(-1)
    return logits.gather(1, tokens[starts:, None])[:, 0], head(out.hidden_states[-1][0, starts - 1 : -1])[:, 0]


def test_a_whole_step_moves_the_weights_as_a_plain_one_does(tmp_path) -> None:
    torch.manual_seed(0)
    learner = Learner(Policy(small_llama()))
    torch.nn.init.normal_(learner.value_head.weight, std=0.1)  # so that the values are something
    settings = TrainingSection(batch_pairs=4, steps=1, learning_rate=RATE, seed=0)
    ppo = PPO(Draw(3, 6), KL, 1, 1, CLIPS, (GAMMA, LAMBDA))
    job = Practice(TASKS, [Reward("letters", letters)], ppo, serving(), settings, tmp_path, {})
    drawn = draw(learner.policy, job.serving, TASKS, ppo.draw)
    learner.policy.release()
    model, head = copy.deepcopy(learner.policy.model), copy.deepcopy(learner.value_head)
    _, norm = plain_step(model, head, drawn)

    optimizer = MasterAdamW(learner, 0.0)
    experience = gather(learner, job, drawn)
    record = learn(learner, optimizer, (experience, job), RATE)
    optimizer.close()
    assert record["gradient_norm"] == pytest.approx(norm, rel=1e-4)
    assert record["policy_kl"] == pytest.approx(0.0, abs=1e-6)
    assert experience.record["reward"] == pytest.approx(np.mean([len(reply.text) for reply in drawn]))
    assert experience.record["kl"] == pytest.approx(0.0, abs=1e-4)
    start = small_llama()
    for ours, theirs, before in zip(learner.policy.model.parameters(), model.parameters(), start.parameters()):
        moved = (theirs - before).norm()
        assert moved > 0
        assert (ours - theirs).norm() <= 2e-2 * moved  # AdamW's first step is a sign: a gradient near 0 may turn it
    assert torch.allclose(learner.value_head.weight, head.weight, atol=1e-6)
