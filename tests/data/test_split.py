"""Splits: families stay whole, strata are alike on both sides, the same pairs always give the same split."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenhand.data.schema import Message, PreferencePair
from evenhand.data.similarity import similarity
from evenhand.data.split import split
from evenhand.errors import DataError


def pair(row, prompt, chosen, family, category="c"):
    return PreferencePair(f"p{row}", row, f"{row}", (Message("user", prompt),), chosen, "no", category, family)


def crowd(seed, pairs, families, categories=3):
    random_ = random.Random(seed)
    for row in range(pairs):
        family = random_.randrange(families)
        yield pair(row, f"{row}", "x" * random_.randint(1, 900), f"f{family}", f"c{family % categories}")


def ids(pairs):
    return [own.id for own in pairs]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.05, 0.1, 0.3])
def test_share_families_and_strata(seed, share):
    pairs = list(crowd(seed, 2000, 700))
    found = split(pairs, share, seed)
    assert sorted(ids(found.train) + ids(found.validation)) == sorted(ids(pairs))
    assert not {own.family for own in found.train} & {own.family for own in found.validation}
    assert abs(found.share - share) * 2000 <= found.largest_family
    assert len(found.table) == 12
    for row in found.table:
        assert abs(row.validation - share * (row.train + row.validation)) <= 8
    assert sum(row.train for row in found.table) == len(found.train)


def test_quartiles_are_those_of_chosen_length():
    found = split(list(crowd(0, 400, 400, categories=1)), 0.25, 0)
    sizes = [row.train + row.validation for row in found.table]
    assert [row.quartile for row in found.table] == [1, 2, 3, 4]
    assert all(95 <= size <= 105 for size in sizes)
    longest = [own for own in found.validation if len(own.chosen) > found.edges[2]]
    assert len(longest) == found.table[3].validation


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(20, 120), st.floats(0.05, 0.5), st.randoms())
def test_any_row_order_gives_the_same_split(seed, pairs, share, random_):
    made = list(crowd(seed, pairs, 15))
    found = split(made, share, seed)
    random_.shuffle(made)
    assert split(made, share, seed) == found
    assert not {own.family for own in found.train} & {own.family for own in found.validation}


def test_seed_decides():
    pairs = list(crowd(0, 300, 200))
    assert ids(split(pairs, 0.2, 1).validation) != ids(split(pairs, 0.2, 2).validation)


def test_a_drawn_family_is_not_larger_than_the_others():
    """Validation must not be made of the largest families: over seeds their share of validation is about fair."""
    pairs = [pair(row, f"{row}", "x" * (row % 97), f"f{row // 8}") for row in range(160)]
    pairs += [pair(row, f"{row}", "x" * (row % 97), f"s{row}") for row in range(160, 320)]
    large = [sum(own.family[0] == "f" for own in split(pairs, 0.25, seed).validation) for seed in range(40)]
    assert 0.3 < sum(large) / (40 * 80) < 0.7


def test_near_prompts_without_a_family_stay_together():
    random_ = random.Random(3)
    words = [f"{random_.getrandbits(40):x}" for _ in range(400)]
    pairs = []
    for row in range(60):
        prompt = " ".join(random_.sample(words, 12))
        pairs += [pair(3 * row + at, f"{prompt} {'please ' * at}{at}", "x" * row, None) for at in range(3)]
    found = split(pairs, 0.2, 0)
    assert found.families == 60
    texts = [[own.prompt[0].content for own in side] for side in (found.train, found.validation)]
    assert max(similarity(one, other) for one in texts[0] for other in texts[1]) < 0.6


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5])
def test_share_out_of_range(share):
    with pytest.raises(DataError, match="between 0 and 1"):
        split(list(crowd(0, 10, 10)), share, 0)


def test_one_family_cannot_be_split():
    with pytest.raises(DataError, match="5 pairs in 1 prompt families"):
        split([pair(row, "p", f"{row}", "f") for row in range(5)], 0.2, 0)
    with pytest.raises(DataError, match="0 pairs"):
        split([], 0.2, 0)
