"""KTO's baseline of a step: how much likelier the policy finds answers to other prompts than the reference does."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from evenhand.model.encode import ABSENT, EncodedPair, EncodedSide
from evenhand.model.forward import Policy
from evenhand.objectives.kto import KTO
from evenhand.training.goal import Goal
from evenhand.training.memory import or_too_large
from evenhand.training.ranks import Ranks
from evenhand.training.share import Share, share_of


def mismatched(examples: Sequence[EncodedPair], longest: int) -> list[EncodedPair]:
    """Each prompt of a step with the answer before its own, as TRL pairs them; none where there is only one prompt.

    An answer is cut where both together have more than `longest` tokens, the most of any example of the run: no more
    than the model has positions for, and than its memory has to hold anyway.
    """
    if len(examples) < 2:
        return []
    sides = [one.rejected if one.chosen.absent else one.chosen for one in examples]
    before = [sides[-1], *sides[:-1]]
    return [
        replace(one, chosen=_answered(own, other, longest), rejected=ABSENT)
        for one, own, other in zip(examples, sides, before)
    ]


def _answered(own: EncodedSide, other: EncodedSide, longest: int) -> EncodedSide:
    """The prompt of one with the answer of the other; both were cut at the same control tokens."""
    both = np.concatenate([own.tokens[: own.starts], other.tokens[other.starts :]])
    return EncodedSide(both[:longest], own.starts)


def with_baseline(
    goal: Goal, policy: Policy, examples: Sequence[EncodedPair], longest: int, cut: tuple[int, Ranks, bool]
) -> Goal:
    """The goal of a step: for KTO with the mean log-ratio of mismatched answers over all ranks, else as it was.

    `longest` is the tokens of the run's longest example; `cut` is the token budget, the ranks, and whether their forwards
    must match. Raises StepTooLargeError where memory runs out, on every rank alike.
    """
    if not isinstance(goal.objective, KTO):
        return goal
    others = mismatched(examples, longest)
    if not others:
        return goal.aiming(goal.objective.with_baseline(0.0))
    budget, ranks, in_step = cut
    own = share_of(others, budget, ranks, in_step)
    total = or_too_large(lambda: _total(goal, policy, own), ranks, in_step)
    nats = float(ranks.add(total)) / len(others)
    return goal.aiming(goal.objective.with_baseline(nats))


@torch.no_grad()
def _total(goal: Goal, policy: Policy, share: Share) -> Tensor:
    """The log-ratios of this rank's share, added up."""
    for batch in share.idle:
        _ratios(goal, policy, batch)
    return torch.tensor([sum(_ratios(goal, policy, batch) for batch in share.micro)], dtype=torch.float64)


def _ratios(goal: Goal, policy: Policy, batch: list[EncodedPair]) -> float:
    judged = goal.judged(policy, batch)
    assert judged.reference is not None
    return float((judged.policy.chosen_sum_B - judged.reference.chosen_sum_B).double().sum())
