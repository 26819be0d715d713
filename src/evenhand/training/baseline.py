"""KTO's baseline of a step: how much likelier the policy finds answers to other prompts than the reference does."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from evenhand.model.encode import ABSENT, EncodedPair, EncodedSide
from evenhand.model.forward import Policy
from evenhand.objectives.kto import KTO
from evenhand.training.goal import Goal
from evenhand.training.ranks import Ranks
from evenhand.training.share import share_of


def mismatched(examples: Sequence[EncodedPair]) -> list[EncodedPair]:
    """Each prompt of a step with the answer before its own, as TRL pairs them; none where there is only one prompt."""
    if len(examples) < 2:
        return []
    sides = [one.rejected if one.chosen.absent else one.chosen for one in examples]
    before = [sides[-1], *sides[:-1]]
    return [
        replace(one, chosen=_answered(own, other), rejected=ABSENT) for one, own, other in zip(examples, sides, before)
    ]


def _answered(own: EncodedSide, other: EncodedSide) -> EncodedSide:
    """The prompt of one with the answer of the other; both were cut at the same control tokens."""
    return EncodedSide(np.concatenate([own.tokens[: own.starts], other.tokens[other.starts :]]), own.starts)


@torch.no_grad()
def with_baseline(goal: Goal, policy: Policy, step: tuple[Sequence[EncodedPair], int, Ranks, bool]) -> Goal:
    """The goal of this step: for KTO with the mean log-ratio of mismatched answers over all ranks, else as it was.

    `step` is its examples, the token budget, the ranks, and whether their forwards must match.
    """
    if not isinstance(goal.objective, KTO):
        return goal
    examples, budget, ranks, in_step = step
    others = mismatched(examples)
    if not others:
        return goal.aiming(goal.objective.with_baseline(0.0))
    own = share_of(others, budget, ranks, in_step)
    total = torch.zeros(1, dtype=torch.float64)
    for batch in own.micro:
        total += _ratios(goal, policy, batch)
    for batch in own.idle:
        _ratios(goal, policy, batch)
    nats = float(ranks.add(total)) / len(others)
    return goal.aiming(goal.objective.with_baseline(nats))


def _ratios(goal: Goal, policy: Policy, batch: list[EncodedPair]) -> float:
    judged = goal.judged(policy, batch)
    assert judged.reference is not None
    return float((judged.policy.chosen_sum_B - judged.reference.chosen_sum_B).double().sum())
