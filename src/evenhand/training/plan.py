"""Which pairs go into which step, and how a step is cut into micro-batches: pure functions of the seed."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from evenhand.errors import DataError
from evenhand.model.encode import EncodedPair
from evenhand.model.pack import forest_tokens


@dataclass(frozen=True, slots=True)
class Plan:
    """The order of a run: `groups` are the indices of pairs that stay together, one tuple a group."""

    groups: tuple[tuple[int, ...], ...]
    batch_pairs: int
    seed: int
    steps: int


def steps_from(plan: Plan, start: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(number, pairs) of every optimizer step from `start` to the end of the plan."""
    first, epoch = 0, 0
    while first < plan.steps:
        for number, indices in enumerate(epoch_steps(plan, epoch), first):
            if start <= number < plan.steps:
                yield number, indices
        first, epoch = number + 1, epoch + 1


def make_plan(pairs: Sequence[EncodedPair], batch_pairs: int, seed: int, length: tuple[int | None, int | None]) -> Plan:
    """A plan over `pairs`; `length` is (steps, epochs), of which steps win.

    Raises DataError where one ranked row has more pairs than a step may hold.
    """
    members: dict[str, list[int]] = {}
    for i, pair in enumerate(pairs):
        members.setdefault(pair.group, []).append(i)
    groups = tuple(tuple(indices) for indices in members.values())
    largest = max(groups, key=len)
    if len(largest) > batch_pairs:
        pair = pairs[largest[0]]
        raise DataError(
            f"row {pair.row} ranks {len(largest)} pairs, which stay together, and `training.batch_pairs` is {batch_pairs}; "
            f"raise it to {len(largest)} or more."
        )
    steps, epochs = length
    plan = Plan(groups, batch_pairs, seed, steps or 0)
    if steps is None:
        assert epochs is not None
        plan = Plan(groups, batch_pairs, seed, sum(len(epoch_steps(plan, epoch)) for epoch in range(epochs)))
    return plan


def epoch_steps(plan: Plan, epoch: int) -> list[tuple[int, ...]]:
    """The steps of one pass: shuffled whole groups, up to `batch_pairs` pairs each, the last one maybe short."""
    order = np.random.default_rng([plan.seed, epoch]).permutation(len(plan.groups))
    steps: list[tuple[int, ...]] = []
    current: list[int] = []
    for g in order:
        group = plan.groups[g]
        if len(current) + len(group) > plan.batch_pairs:
            steps.append(tuple(current))
            current = []
        current.extend(group)
    return [*steps, tuple(current)] if current else steps


def micro_batches(pairs: Sequence[EncodedPair], token_budget: int, ranks: int = 1) -> list[list[list[EncodedPair]]]:
    """Cut a step's pairs into micro-batches of about `token_budget` tokens, for each rank, balanced by tokens.

    Groups stay whole; a group above the budget is a micro-batch of its own.
    """
    groups: dict[str, list[EncodedPair]] = {}
    for pair in pairs:
        groups.setdefault(pair.group, []).append(pair)
    weighed = sorted(((forest_tokens(group), i) for i, group in enumerate(groups.values())), reverse=True)
    members = list(groups.values())
    count = -(-sum(weight for weight, _ in weighed) // token_budget)
    count = min(len(members), max(ranks, -(-count // ranks) * ranks))
    loads = [(0, i) for i in range(count)]
    bins: list[list[EncodedPair]] = [[] for _ in range(count)]
    for weight, i in weighed:  # longest first onto the lightest: within 4/3 of the best balance (Graham 1969)
        load, lightest = heapq.heappop(loads)
        bins[lightest].extend(members[i])
        heapq.heappush(loads, (load + weight, lightest))
    return [bins[rank::ranks] for rank in range(ranks)]
