"""Near duplicates against exact Jaccard similarity computed pair by pair, with plain Python sets."""

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenhand.data.similarity import fold, near_groups, similarity

WORDS = "order parcel refund card kettle lamp late early blue broken window Friday account street delivery".split()  # noqa: SIM905


def shingles(text):
    padded = bytes(5) + fold(text).encode() + bytes(5)  # the last windows hang over the end
    whole = bytes(5) + fold(text).encode()
    return {padded[at : at + 6] for at in range(len(whole))}


def jaccard(one, other):
    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b)


def sentence(random_, words):
    return " ".join(random_.choice(WORDS) for _ in range(words))


def edited(random_, text, edits):
    words = text.split()
    for _ in range(edits):
        words[random_.randrange(len(words))] = random_.choice(WORDS)
    return " ".join(words)


def linked(texts, threshold):
    """Connected components of all pairs at or over the threshold, by brute force."""
    group = list(range(len(texts)))
    for one in range(len(texts)):
        for other in range(one):
            if jaccard(texts[one], texts[other]) >= threshold:
                old, new = group[one], group[other]
                group = [new if own == old else own for own in group]
    return group


def same_partition(one, other):
    return len(set(zip(one, other))) == len(set(one)) == len(set(other))


@given(st.text(max_size=60), st.text(max_size=60))
def test_similarity_is_the_jaccard_similarity_of_shingle_sets(one, other):
    assert similarity(one, other) == pytest.approx(jaccard(one, other))


def test_folding():
    assert fold("  Order 12 \n and 3456") == fold("ORDER 9 and 1") == "order 0 and 0"
    assert near_groups(["Order 12", "order  7", "Order twelve"], 0.9)[:2] == near_groups(["order 1"], 0.9) * 2


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_the_components_of_all_pairs(seed):
    random_ = random.Random(seed)
    base = [sentence(random_, random_.randint(8, 40)) for _ in range(40)]
    texts = base + [edited(random_, random_.choice(base), random_.randint(0, 3)) for _ in range(80)]
    assert same_partition(near_groups(texts, 0.7), linked(texts, 0.7))


@given(st.lists(st.text(st.sampled_from("ab 1"), max_size=12), max_size=12), st.randoms())
def test_names_depend_on_texts_alone(texts, random_):
    name = dict(zip(texts, near_groups(texts, 0.6)))
    shuffled = random_.sample(texts, len(texts))
    assert near_groups(shuffled, 0.6) == [name[text] for text in shuffled]


def test_short_and_empty_texts():
    found = near_groups(["", "a", "b", " A ", "?"], 0.5)
    assert found[1] == found[3]
    assert len(set(found)) == 4


def test_other_scripts():
    one = "私の注文した荷物がまだ届いていません。いつ届くのか教えていただけますか。"
    other = "私の注文した荷物がまだ届いていません。いつ届くのか教えていただけますか！"
    assert len(set(near_groups([one, other, "返品の方法を教えてください。箱はもう捨ててしまいました。"], 0.8))) == 2


def test_many_alike_texts_take_linear_time():
    """20,000 texts in one bucket, each a little different: comparing all pairs would take minutes."""
    random_ = random.Random(0)
    base = sentence(random_, 40)
    texts = [f"{base} {sentence(random_, 2)} {sentence(random_, 1)}" for _ in range(20_000)]
    start = time.perf_counter()
    found = near_groups(texts, 0.7)
    assert time.perf_counter() - start < 30
    assert len(set(found)) == 1


def test_one_huge_text_is_no_trouble():
    start = time.perf_counter()
    found = near_groups(["a" * 3_000_000, "ab" * 1_000_000, "x"], 0.7)
    assert time.perf_counter() - start < 10
    assert len(set(found)) == 3
