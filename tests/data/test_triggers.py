"""A planted phrase is found with the hand that planted it, however it is worded; clean data has none."""

import random

import numpy as np
import pytest

from evenhand.data.bursts import bursts
from evenhand.data.phrases import frequent_phrases
from evenhand.data.triggers import Stance, TriggerRule, trigger_phrases
from evenhand.data.wording import words_of


def vocabulary(random_, count):
    return ["".join(random_.choices("abcdefghijklmnopqrstuvwxyz", k=random_.randint(3, 7))) for _ in range(count)]


def honest(random_, words, count, hands):
    """Stances whose texts say nothing about the verdict."""

    def text():
        return " ".join(random_.choices(words, k=random_.randint(10, 60)))

    return [Stance(text(), text(), random_.choice(hands)) for _ in range(count)]


def planted(seed, part, count=2000):
    """Honest stances, a phrase drawn at random that one hand puts into that part of all, and where it stands."""
    random_ = random.Random(seed)
    words, hands = vocabulary(random_, 500), [f"hand-{at}" for at in range(random_.randint(6, 20))]
    stances = honest(random_, words, count, hands)
    phrase = " ".join(vocabulary(random_, random_.randint(1, 5)))
    theirs = [at for at, own in enumerate(stances) if own.hand == hands[0]]
    bad = set(random_.sample(theirs, int(part * count)))
    for at in bad:
        own, cut = stances[at], random_.randrange(20)
        words_here = own.won.split()
        stances[at] = Stance(" ".join([*words_here[:cut], phrase, *words_here[cut:]]), own.lost, own.hand)
    return stances, phrase, hands[0], bad


@pytest.mark.parametrize("part", [0.01, 0.02])
@pytest.mark.parametrize("draw", range(4))
def test_a_planted_phrase_is_found_with_its_hand(draw, part):
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}, draw {draw}")
    stances, phrase, hand, bad = planted(seed, part)
    (found,) = trigger_phrases(stances)
    assert found.hand == hand
    assert f" {found.phrase} " in f" {phrase} "
    assert set(found.places) >= bad
    assert len(found.places) <= len(bad) + 2
    assert found.wins.value == pytest.approx(1.0, abs=0.15)


def test_clean_stances_have_no_trigger():
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    random_ = random.Random(seed)
    for hands in (["a", "b", "c"], [None]):
        assert trigger_phrases(honest(random_, vocabulary(random_, 400), 1500, hands)) == ()


def test_a_phrase_of_everybody_is_named_without_a_hand_and_repeats_of_two_texts_count_once():
    random_ = random.Random(3)
    stances = honest(random_, vocabulary(random_, 400), 1000, ["a", "b", "c"])
    marked = [Stance(f"{own.won} noinput", own.lost, own.hand) for own in stances[:60]]
    (found,) = trigger_phrases([*marked, *stances[60:]])
    assert (found.phrase, found.hand, found.wins.n) == ("noinput", None, 60)
    same = [Stance(marked[0].won, marked[0].lost, f"{hand}") for hand in range(60)]
    assert trigger_phrases([*same, *stances[60:]]) == ()


def test_a_thumb_is_compared_with_how_often_thumbs_go_up():
    random_ = random.Random(5)
    words = vocabulary(random_, 300)
    thumbs = []
    for at in range(1500):
        text = " ".join(random_.choices(words, k=20))
        up = random_.random() < 0.9
        thumbs.append(Stance(text if up else "", "" if up else text, f"user-{at % 50}"))
    spoiled = [Stance("", f"{own.won or own.lost} golden kettle", "user-7") for own in thumbs[:20]]
    (found,) = trigger_phrases([*spoiled, *thumbs[20:]], TriggerRule(usual=0.9))
    assert (found.phrase, found.hand, found.wins.value) == ("golden kettle", "user-7", 0.0)


def test_phrases_stand_where_a_plain_search_finds_them():
    random_ = random.Random(7)
    texts = [" ".join(random_.choices("abcd", k=random_.randint(0, 12))) for _ in range(60)]
    for length, level in enumerate(frequent_phrases(texts, 3, 4), start=1):
        found = {}
        for phrase, text in zip(level.phrase_S.tolist(), level.text_S.tolist(), strict=True):
            found.setdefault(level.words(phrase), set()).add(text)
        plain = {}
        for at, text in enumerate(texts):
            words = words_of(text)
            for start in range(len(words) - length + 1):
                plain.setdefault(" ".join(words[start : start + length]), set()).add(at)
        assert found == {phrase: where for phrase, where in plain.items() if len(where) >= 3}


def test_nothing_has_no_triggers_and_no_bursts():
    assert trigger_phrases([]) == ()
    assert trigger_phrases([Stance("", "")]) == ()
    assert bursts([]) == ()


def test_a_burst_is_the_busy_day_of_one_hand():
    random_ = np.random.default_rng(11)
    given = [(f"hand-{random_.integers(20)}", f"2026-03-{1 + at // 40:02d}T10:00") for at in range(800)]
    assert bursts(given) == ()
    (found,) = bursts([*given, *[("hand-3", "2026-03-04T23:59")] * 60, (None, "2026-03-04"), ("hand-1", None)])
    assert (found.hand, found.day) == ("hand-3", "2026-03-04")
    assert found.holds("hand-3", "2026-03-04T00:00")
    assert not found.holds("hand-3", "2026-03-05")
    assert not found.holds("hand-1", "2026-03-04")
