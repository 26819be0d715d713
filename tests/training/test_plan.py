"""The plan gives every pair once a pass in whole groups; the cut into micro-batches loses nothing and fits the budget."""

import itertools
import tracemalloc
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_training import some_pairs

from evenhand.errors import DataError
from evenhand.model.encode import EncodedPair, side
from evenhand.model.pack import forest_tokens
from evenhand.training.plan import Plan, epoch_ends, epoch_steps, make_plan, micro_batches, steps_from

SHAPES = {
    "count": st.integers(1, 40),
    "largest": st.integers(1, 4),
    "batch": st.integers(4, 12),
    "seed": st.integers(0, 2**63 - 1),
}


@settings(deadline=None, max_examples=60)
@given(**SHAPES)
def test_a_pass_holds_every_pair_once_in_whole_groups(count: int, largest: int, batch: int, seed: int) -> None:
    pairs = some_pairs(count, seed % 1000, largest)
    plan = make_plan(pairs, batch, seed, (None, 2))
    for epoch in (0, 1):
        steps = epoch_steps(plan, epoch)
        assert sorted(i for step in steps for i in step) == list(range(count))
        assert all(0 < len(step) <= batch for step in steps)
        step_of = {i: number for number, step in enumerate(steps) for i in step}
        for group in {pair.group for pair in pairs}:
            assert len({step_of[i] for i, pair in enumerate(pairs) if pair.group == group}) == 1
    assert plan.steps == len(epoch_steps(plan, 0)) + len(epoch_steps(plan, 1))
    assert list(steps_from(plan, 0)) == list(enumerate([*epoch_steps(plan, 0), *epoch_steps(plan, 1)]))
    assert epoch_ends(plan, 2) == (len(epoch_steps(plan, 0)), plan.steps)


@settings(deadline=None, max_examples=40)
@given(count=st.integers(1, 40), batch=st.integers(1, 12), seed=st.integers(0, 99))
def test_single_pairs_fill_every_step_but_the_last(count: int, batch: int, seed: int) -> None:
    sizes = [len(step) for step in epoch_steps(make_plan(some_pairs(count), batch, seed, (None, 1)), 0)]
    full, rest = divmod(count, batch)
    assert sizes == [batch] * full + [rest] * bool(rest)


@settings(deadline=None, max_examples=40)
@given(count=st.integers(1, 30), steps=st.integers(1, 25), start=st.integers(0, 25), seed=st.integers(0, 99))
def test_a_plan_depends_on_its_seed_alone_and_starts_anywhere(count: int, steps: int, start: int, seed: int) -> None:
    pairs = some_pairs(count)
    plan = make_plan(pairs, 5, seed, (steps, 1))
    whole = list(steps_from(plan, 0))
    assert whole == list(steps_from(make_plan(pairs, 5, seed, (steps, None)), 0))
    assert [number for number, _ in whole] == list(range(steps))  # steps win over epochs, both ways
    assert list(steps_from(plan, start)) == whole[start:]


def test_another_seed_or_epoch_is_another_order() -> None:
    pairs = some_pairs(30)
    orders = {
        tuple(epoch_steps(make_plan(pairs, 5, seed, (1, None)), epoch)) for seed in range(3) for epoch in range(3)
    }
    assert len(orders) == 9


def test_a_ranked_row_larger_than_a_step_is_refused_with_both_numbers() -> None:
    pairs = some_pairs(60, seed=1, largest_group=6)
    largest, count = Counter(pair.group for pair in pairs).most_common(1)[0]
    row = next(pair.row for pair in pairs if pair.group == largest)
    with pytest.raises(
        DataError, match=rf"row {row} ranks {count} pairs.*`training.batch_pairs` is {count - 1}; raise"
    ):
        make_plan(pairs, count - 1, 0, (None, 1))
    assert make_plan(pairs, count, 0, (None, 1)).steps > 0


@settings(deadline=None, max_examples=80)
@given(
    count=st.integers(1, 30),
    largest=st.integers(1, 4),
    seed=st.integers(0, 999),
    budget=st.integers(1, 900),
    ranks=st.integers(1, 3),
)
def test_micro_batches_keep_groups_and_pairs_and_the_budget(
    count: int, largest: int, seed: int, budget: int, ranks: int
) -> None:
    pairs = some_pairs(count, seed, largest)
    cut = micro_batches(pairs, budget, ranks)
    assert len(cut) == ranks
    batches = [batch for rank in cut for batch in rank]
    assert Counter(pair.id for batch in batches for pair in batch) == Counter(pair.id for pair in pairs)
    assert all(batches)
    places: dict[str, set[int]] = {}
    for number, batch in enumerate(batches):
        for pair in batch:
            places.setdefault(pair.group, set()).add(number)
    assert all(len(found) == 1 for found in places.values())
    groups = [[pair for pair in pairs if pair.group == group] for group in places]
    sizes = [forest_tokens(batch) for batch in batches]
    assert all(size <= budget or len({p.group for p in batch}) == 1 for size, batch in zip(sizes, batches))
    if len(groups) >= ranks:
        assert len(batches) % ranks == 0 or len(batches) == len(groups)
    if ranks == 1 and len(batches) > 1:  # no more batches than first-fit could need: any two are more than one holds
        own = {group[0].group: forest_tokens(group) for group in groups}
        loads = sorted(sum(own[name] for name in {p.group for p in batch}) for batch in batches)
        assert sum(loads) * 2 > budget * (len(batches) - 1)


def test_what_all_pairs_begin_with_counts_once_a_micro_batch() -> None:
    """Eight pairs that share a system prompt of 50 tokens fit in one forest, and are computed as one."""
    system = list(range(3, 53))
    pairs = [
        EncodedPair(i, str(i), str(i), side([*system, 60 + i, 9], 51), side([*system, 60 + i, 8], 51)) for i in range(8)
    ]
    whole = forest_tokens(pairs)
    assert whole == 50 + 8 * 3
    assert [len(batch) for batch in micro_batches(pairs, whole)[0]] == [8]
    assert [len(batch) for batch in micro_batches(pairs, whole - 1)[0]] == [4, 4]


def test_a_million_pairs_are_planned_in_few_bytes_each() -> None:
    count = 1_000_000
    plan = Plan(np.arange(count), np.arange(count + 1), 32, 0, 0)
    tracemalloc.start()
    parts = list(itertools.islice(steps_from(replace(plan, steps=31_250), 31_240), 100))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [number for number, _ in parts] == list(range(31_240, 31_250))
    assert all(len(step) == 32 for _, step in parts)
    assert peak < 64 * count
    assert plan.members_N.nbytes + plan.borders_G1.nbytes < 17 * count
