import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from quiet_traffic import RATES, batches
from scipy.stats import binom

from evenhand.errors import UserError
from evenhand.service.alarm import Batch, Notice, Watch, notice_of
from evenhand.service.policy import SIGNALS, Policy, policy_text, read_policy
from evenhand.service.rise import STEPS, Series, chance, threshold
from evenhand.service.sequence import Tally

sys.path.insert(0, str(Path(__file__).parents[2] / "reliability"))
from late_outcomes import batches as late_batches
from late_outcomes import false_alarms

WORSE = {**RATES, "takeover": 0.12}


def watch_after(seed: int, drafts: int = 10_000) -> tuple[Watch, np.random.Generator]:
    rng = np.random.default_rng(seed)
    watch = Watch(Policy())
    for _ in range(drafts // 100):
        watch.add(batches(rng, 100))
    return watch, rng


def opened_within(watch: Watch, rng: np.random.Generator, drafts: int, rates=RATES, every: int = 100) -> list[Notice]:
    found = []
    for _ in range(drafts // every):
        watch.add(batches(rng, every, rates))
        found += [notice for notice in watch.look() if notice.what == "opened"]
    return found


def test_twenty_quiet_quarters_raise_one_alarm_at_most():
    """All 30 alarms together, at the default policy; more looks and more quarters are in reliability/alarm_drill.py."""
    assert sum(bool(opened_within(*watch_after(seed), 20_000, every=400)) for seed in range(20)) <= 1


def test_a_rise_of_takeover_from_8_to_12_percent_is_found_within_1500_drafts_in_the_median():
    delays = []
    for seed in range(25):
        watch, rng = watch_after(1000 + seed)
        delay = 0
        while ("takeover", None) not in watch.open:
            opened_within(watch, rng, 100, WORSE)
            delay += 100
        delays.append(delay)
    assert median(delays) <= 1500


def test_an_alarm_says_what_rose_and_closes_only_when_it_has_come_down():
    watch, rng = watch_after(3)
    (notice,) = [
        own for own in opened_within(watch, rng, 5000, WORSE) if (own.signal, own.category) == ("takeover", None)
    ]
    assert notice.before.trials >= 10_000
    assert notice.since.rate > 1.2 * notice.before.rate
    assert notice.evidence >= notice.needed == watch.needed(None, 5)
    assert notice_of(notice.json()) == Notice(
        **{
            **{name: getattr(notice, name) for name in Notice.__slots__},
            "evidence": round(notice.evidence, 2),
            "needed": round(notice.needed, 2),
        }
    )
    assert ("takeover", None) in watch.open
    closed = []
    for _ in range(60):
        watch.add(batches(rng, 100))
        closed += [own for own in watch.look() if own.what == "closed" and own.category is None]
    assert [own.signal for own in closed] == ["takeover"]
    assert closed[0].since.rate <= 1.1 * notice.before.rate
    assert ("takeover", None) not in watch.open


def test_an_alarm_stays_open_while_the_rate_stays_high():
    watch, rng = watch_after(4)
    opened_within(watch, rng, 10_000, WORSE)
    assert ("takeover", None) in watch.open


def with_few_thumbs(rng: np.random.Generator, times: float) -> Iterator[Batch]:
    """A hundred drafts, one in twenty with a thumb; thumbs down, and takeovers in `technical`, at `times` their rates."""
    for batch in batches(rng, 100):
        thumbs = int(rng.binomial(batch.drafts, 0.05))
        takeovers = rng.binomial(batch.drafts, 0.08 * (times if batch.category == "technical" else 1.0))
        downs = rng.binomial(thumbs, 0.3 * times)
        yield Batch(batch.category, batch.drafts, thumbs, {"takeover": int(takeovers), "thumb_down": int(downs)})


def test_an_alarm_on_thumbs_or_in_a_small_category_needs_as_many_to_close_as_to_open():
    """A thousand of their own would be 20,000 and 10,000 drafts."""
    rng, watch = np.random.default_rng(4), Watch(Policy())
    places = {("thumb_down", None): 0.05, ("takeover", "technical"): 0.1}
    for _ in range(120):
        watch.add(with_few_thumbs(rng, 1.0))
        watch.look()
    while not places.keys() <= watch.open.keys():
        watch.add(with_few_thumbs(rng, 2.0))
        watch.look()
    opened, drafts = dict(watch.open), 0
    while places.keys() & watch.open.keys() and drafts < 5000:
        watch.add(with_few_thumbs(rng, 1.0))
        drafts += 100
        for one in watch.look():
            share = places.get((one.signal, one.category))
            if share is not None:
                fewest = opened[one.signal, one.category].since.trials / share
                assert max(1000, 0.9 * fewest) <= drafts <= 1.2 * fewest + 1000
    assert not places.keys() & watch.open.keys()


def test_an_alarm_kept_by_an_earlier_version_is_still_read():
    watch, rng = watch_after(5)
    opened_within(watch, rng, 4000, WORSE)
    kept = watch.json()
    kept["since_opened"] = [[*place, trials] for *place, _, trials in kept["since_opened"]]
    assert Watch.of(watch.policy, kept)._since_opened["takeover", None][0] == watch._since_opened["takeover", None][0]


def test_a_watch_goes_on_after_a_restart_as_if_there_had_been_none():
    watch, rng = watch_after(5)
    opened_within(watch, rng, 4000, WORSE)
    assert ("takeover", None) in watch.open
    again = Watch.of(watch.policy, json.loads(json.dumps(watch.json())))
    seen = []
    for one in (watch, again):
        rng = np.random.default_rng(6)
        for _ in range(80):
            one.add(batches(rng, 100))
            seen.append([(notice.what, notice.signal, notice.category) for notice in one.look()])
    assert seen[:80] == seen[80:]
    assert [("closed", "takeover", None)] in seen
    assert again.json() == watch.json()


def test_what_is_watched_no_longer_is_forgotten_but_for_open_alarms():
    watch, rng = watch_after(7)
    opened_within(watch, rng, 6000, WORSE)
    open_in = {category for _, category in watch.open if category}
    watch.keep_only({"billing"})
    assert set(watch._by_category) == {"billing", *open_in}
    assert {category for _, category in watch._series} == {None, "billing", *open_in}


def test_nothing_is_watched_before_there_is_enough_to_compare_with():
    watch = Watch(Policy())
    watch.add([Batch("billing", 9_000, 0, {"takeover": 90})])
    watch.add([Batch("billing", 900, 0, {"takeover": 900})])
    assert watch.look() == []
    assert watch.missing == 100


def test_senders_of_many_categories_cannot_spend_the_false_alarms_of_others():
    watch = Watch(Policy(category_drafts=1, baseline_drafts=1))
    watch.add(Batch(f"made-up-{number}", 1, 0, {}) for number in range(500))
    watch.add([Batch("billing", 100, 0, {})])
    assert len(watch._watched()) == 40
    assert watch._watched()[0] == "billing"


def test_the_evidence_of_a_rise_is_the_likelihood_ratio_of_two_rates_against_one():
    series = Series(Tally(800, 10_000))
    series.add(Tally(60, 400), 400)
    found = series.sharpest_rise(10_000, 1.2)
    parts = binom.logpmf(800, 10_000, 0.08) + binom.logpmf(60, 400, 0.15)
    whole = binom.logpmf(800, 10_000, 860 / 10_400) + binom.logpmf(60, 400, 860 / 10_400)
    assert math.isclose(found.evidence, parts - whole, rel_tol=1e-9)
    assert math.isclose(found.ratio, 0.15 / 0.08)
    assert series.sharpest_rise(10_001, 1.2) is None
    assert series.sharpest_rise(10_000, 2.0) is None


def test_a_series_forgets_no_count_and_finds_the_start_of_a_rise():
    rng = np.random.default_rng(0)
    series = Series()
    for at in range(600):
        series.add(Tally(int(rng.binomial(100, 0.08 if at < 580 else 0.2)), 100), 100)
    assert series.total.trials == 60_000
    assert len(series.trials) == 400
    assert 1500 <= series.sharpest_rise(10_000, 1.2).since.trials <= 2500
    assert series.last(250).trials == 300


def test_the_law_of_chance_holds_in_simulated_quiet_periods():
    """One rate, 200 steps, a threshold that chance reaches in one period of ten."""
    rng, reached = np.random.default_rng(1), 0
    needed = threshold(0.1)
    for _ in range(150):
        series = Series(Tally(int(rng.binomial(10_000, 0.08)), 10_000))
        best = 0.0
        for hits in rng.binomial(100, 0.08, STEPS):
            series.add(Tally(int(hits), 100), 100)
            rise = series.sharpest_rise(10_000, 1.2)
            best = max(best, rise.evidence if rise else 0.0)
        reached += best >= needed
    assert binom.cdf(reached, 150, 0.1) > 0.001
    assert binom.sf(reached - 1, 150, 0.1) > 0.001
    assert math.isclose(chance(needed), 0.1)


def test_more_hits_than_drafts_are_a_rate_of_one_at_most():
    """As a draft that was taken over twice brings them about."""
    series = Series(Tally(100, 10_000))
    series.add(Tally(30, 10), 100)
    found = series.sharpest_rise(1, 1.2)
    assert (found.since, series.last(1)) == (Tally(10, 10), Tally(10, 10))
    apart = binom.logpmf(100, 10_000, 0.01) + binom.logpmf(10, 10, 1.0)
    together = binom.logpmf(100, 10_000, 110 / 10_010) + binom.logpmf(10, 10, 110 / 10_010)
    assert math.isclose(found.evidence, apart - together, rel_tol=1e-9)


def test_hits_that_come_after_their_drafts_are_not_lost():
    watch = Watch(Policy())
    watch.add([Batch("billing", 99, 0, {"takeover": 0})])
    watch.add([Batch("billing", 1, 0, {"takeover": 8})])
    assert watch._series["takeover", "billing"].total == Tally(8, 100)


def test_a_look_of_many_drafts_raises_no_alarm_where_categories_have_unequal_rates():
    """Three at 5 %, the two smallest at 20 %, as `reliability/late_outcomes.py` has them."""
    assert [false_alarms(seed, 0.5, look) for look in (200, 600) for seed in range(3)] == [0] * 6


def test_a_step_of_all_drafts_is_of_the_whole_mix_whatever_order_its_categories_come_in():
    watch = Watch(Policy())
    for _ in range(2):
        watch.add([Batch("billing", 450, 0, {"takeover": 20}), Batch("technical", 150, 0, {"takeover": 50})])
    series = watch._series["takeover", None]
    assert (series.hits, series.trials) == ([70, 70], [600, 600])


def test_outcomes_that_come_hours_late_raise_no_alarm_where_each_look_takes_in_a_day():
    """A short form of `reliability/late_outcomes.py`, where looks of 100 drafts do raise some."""
    assert sum(batch.drafts for look in late_batches(0, 4.0, 600) for batch in look) >= 33_000
    assert false_alarms(0, 4.0, 600) == 0
    assert false_alarms(0, 4.0, 100) > 0


def test_a_policy_is_read_back_from_its_own_text(tmp_path):
    file = tmp_path / "policy.yaml"
    file.write_text(policy_text(Policy(false_alarms=0.01)))
    assert read_policy(file) == Policy(false_alarms=0.01)
    assert read_policy(None).signals == SIGNALS


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rise: 1.0", "`rise`"),
        ("alarms: 3", "`alarms`"),
        ("signals: [mood]", "`signals.0`"),
        ("rollback_tenants: []", "`rollback_tenants`"),
        ("a: [", "is not YAML"),
        ("rise: 2\nrise: 3", "stands twice"),
        ("- rise", "dictionary"),
    ],
)
def test_a_wrong_policy_names_its_key(tmp_path, text, said):
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=said):
        read_policy(file)
    with pytest.raises(UserError, match="No such file"):
        read_policy(tmp_path / "absent.yaml")
