"""Which pairs go into which step, and how a step is cut into micro-batches: pure functions of the seed.

Shapes: N pairs, G groups of pairs that stay together, G1 = G + 1 borders between groups.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evenhand.errors import DataError
from evenhand.model.encode import EncodedPair
from evenhand.model.pack import common_beginning, forest_tokens
from evenhand.model.store import group_numbers

Index = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The order of a run: group g is the pairs `members_N[borders_G1[g]:borders_G1[g + 1]]`."""

    members_N: Index
    borders_G1: Index
    batch_pairs: int
    seed: int
    steps: int

    @property
    def sizes_G(self) -> Index:
        """Pairs in each group."""
        return np.diff(self.borders_G1)

    def pairs_of(self, groups: Index) -> tuple[int, ...]:
        """The pairs of some groups, group after group."""
        return tuple(
            pair for g in groups for pair in self.members_N[self.borders_G1[g] : self.borders_G1[g + 1]].tolist()
        )


def steps_from(plan: Plan, start: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(number, pairs) of every optimizer step from `start` to the end of the plan."""
    first, epoch = 0, 0
    while first < plan.steps:
        parts = _parts(plan, epoch)
        for number, groups in enumerate(parts, first):
            if start <= number < plan.steps:
                yield number, plan.pairs_of(groups)
        first, epoch = first + len(parts), epoch + 1


def make_plan(
    pairs: Sequence[EncodedPair],
    batch_pairs: int,
    seed: int,
    length: tuple[int | None, int | None],
    batch_name: str = "training.batch_pairs",
) -> Plan:
    """A plan over `pairs`; `length` is (steps, epochs), of which steps win.

    Raises DataError where one ranked row has more pairs than a step may hold, which `batch_name` is the setting of.
    """
    group_N = group_numbers(pairs)
    sizes_G = np.bincount(group_N)
    plan = Plan(np.argsort(group_N, kind="stable"), np.cumsum([0, *sizes_G]), batch_pairs, seed, 0)
    largest = int(sizes_G.argmax())
    if sizes_G[largest] > batch_pairs:
        pair = pairs[int(plan.members_N[plan.borders_G1[largest]])]
        raise DataError(
            f"row {pair.row} ranks {sizes_G[largest]} pairs, which stay together, and `{batch_name}` is "
            f"{batch_pairs}; raise it to {sizes_G[largest]} or more."
        )
    steps, epochs = length
    if steps is None:
        assert epochs is not None
        steps = sum(len(_parts(plan, epoch)) for epoch in range(epochs))
    return Plan(plan.members_N, plan.borders_G1, batch_pairs, seed, steps)


def epoch_ends(plan: Plan, epochs: int) -> tuple[int, ...]:
    """How many steps are done at the end of each of the first `epochs` passes."""
    return tuple(np.cumsum([len(_parts(plan, epoch)) for epoch in range(epochs)]).tolist())


def ends_until(plan: Plan, steps: int) -> tuple[int, ...]:
    """The same of as many passes as `steps` steps go through; the last may end after them."""
    ends: list[int] = []
    while not ends or ends[-1] < steps:
        ends.append((ends[-1] if ends else 0) + len(_parts(plan, len(ends))))
    return tuple(ends)


def epoch_steps(plan: Plan, epoch: int) -> list[tuple[int, ...]]:
    """The steps of one pass: shuffled whole groups, up to `batch_pairs` pairs each, the last one maybe short."""
    return [plan.pairs_of(groups) for groups in _parts(plan, epoch)]


def _parts(plan: Plan, epoch: int) -> list[Index]:
    """The groups of each step of one pass, as views of the pass's order."""
    sizes_G = plan.sizes_G
    order_G = np.random.default_rng([plan.seed, epoch]).permutation(len(sizes_G))
    ends_G = np.cumsum(sizes_G[order_G])
    parts: list[Index] = []
    first, before = 0, 0
    while first < len(order_G):
        after = int(np.searchsorted(ends_G, before + plan.batch_pairs, side="right"))
        parts.append(order_G[first:after])
        first, before = after, int(ends_G[after - 1])
    return parts


def micro_batches(pairs: Sequence[EncodedPair], token_budget: int, ranks: int = 1) -> list[list[list[EncodedPair]]]:
    """Cut a step's pairs into micro-batches of at most `token_budget` tokens, for each rank, balanced by tokens.

    Groups stay whole; a group above the budget is a micro-batch of its own. What all pairs begin with counts once a
    micro-batch. Their number is a multiple of `ranks` where there are groups enough.
    """
    groups: dict[str, list[EncodedPair]] = {}
    for pair in pairs:
        groups.setdefault(pair.group, []).append(pair)
    members = list(groups.values())
    shared = common_beginning(pairs)
    weighed = sorted(((forest_tokens(group) - shared, i) for i, group in enumerate(members)), reverse=True)
    room = max(token_budget - shared, 1)
    count = -(-sum(weight for weight, _ in weighed) // room)
    while True:
        count = min(len(members), max(ranks, -(-count // ranks) * ranks))
        bins = _spread(weighed, count)
        if count == len(members) or all(len(own) == 1 or load <= room for load, own in bins):
            break
        count += 1
    batches = [[pair for i in own for pair in members[i]] for _, own in bins]
    shares = _dealt([load for load, _ in bins], ranks)
    return [[batches[i] for i in share] for share in shares]


def _dealt(loads: Sequence[int], ranks: int) -> list[list[int]]:
    """Which micro-batches each rank takes: no rank more than its share of them, and each about as much to compute."""
    shares: list[list[int]] = [[] for _ in range(ranks)]
    taken = [0] * ranks
    for i in sorted(range(len(loads)), key=lambda i: -loads[i]):
        rank = min(range(ranks), key=lambda r: (len(shares[r]) >= -(-len(loads) // ranks), taken[r]))
        shares[rank].append(i)
        taken[rank] += loads[i]
    return [sorted(share) for share in shares]


def _spread(weighed: Sequence[tuple[int, int]], count: int) -> list[tuple[int, list[int]]]:
    """Weights, largest first, dealt into `count` bins; each bin's load and what is in it."""
    loads = [(0, i) for i in range(count)]
    bins: list[list[int]] = [[] for _ in range(count)]
    for weight, i in weighed:  # longest first onto the lightest: within 4/3 of the best balance (Graham 1969)
        load, lightest = heapq.heappop(loads)
        bins[lightest].append(i)
        heapq.heappush(loads, (load + weight, lightest))
    return [(load, bins[i]) for load, i in sorted(loads, key=lambda entry: entry[1])]
