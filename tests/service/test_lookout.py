"""Alarms as the service raises them: out of its roll-ups, kept for good, once each, with what to do about them."""

import sys
import time
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from quiet_traffic import RATES, batches, pour, pour_side_by_side
from small_registry import registry_of

from evenhand.errors import RegistryError
from evenhand.lifecycle.registry import Decision, read_log, state_of
from evenhand.service.advice import advise, carry_out, roll_back_by_policy
from evenhand.service.alarm import MOST_CATEGORIES, Batch, Notice
from evenhand.service.app import make_service
from evenhand.service.counts import Counts, read_counts, total
from evenhand.service.lookout import TOPIC, Lookout, alarms
from evenhand.service.place import open_database
from evenhand.service.policy import Policy
from evenhand.service.production import Production
from evenhand.service.sequence import Tally
from evenhand.service.store import Store, add_record

WORSE = {**RATES, "takeover": 0.14}
LATER_MS = round(datetime(2027, 1, 1, tzinfo=UTC).timestamp() * 1000)


@pytest.fixture
def store(tmp_path):
    database = open_database(str(tmp_path / "events.db"))
    yield Store(database)
    database.close()


def lookout_of(store: Store, **changes) -> Lookout:
    return Lookout(store, Policy(**changes), lambda: LATER_MS)


def history(store: Store, rng: np.random.Generator, model: str = "harbor-1") -> None:
    for day in range(1, 21):
        pour(store, batches(rng, 600), f"2026-11-{day:02d}", model)


def watched(lookout: Lookout, store: Store, rng, drafts: int, rates=RATES, **where) -> list:
    found = []
    for _ in range(drafts // 100):
        pour(store, batches(rng, 100, rates), **where)
        found += lookout.look()
    return found


def places(notices) -> set:
    return {(notice.what, notice.signal, notice.category) for notice in notices}


def test_an_alarm_opens_and_closes_once_and_is_kept(store):
    rng = np.random.default_rng(1)
    history(store, rng)
    lookout = lookout_of(store)
    assert lookout.look() == []
    opened = watched(lookout, store, rng, 2500, WORSE)
    assert ("opened", "takeover", None) in places(opened)
    closed = watched(lookout, store, rng, 6000)
    assert ("closed", "takeover", None) in places(closed)
    (alarm,) = [one for one in alarms(store, "t") if one.opened.category is None]
    assert alarm.opened.before.trials >= 10_000
    assert alarm.closed.since.rate <= 1.1 * alarm.opened.before.rate
    assert alarms(store, "other") == []


def test_the_first_look_at_an_existing_store_raises_no_alarm_for_the_order_of_categories(store):
    rng = np.random.default_rng(4)
    for day in range(1, 31):
        pour(store, [Batch("billing", 450, 0, {"takeover": int(rng.binomial(450, 0.05))})], f"2026-10-{day:02d}")
        pour(store, [Batch("technical", 150, 0, {"takeover": int(rng.binomial(150, 0.3))})], f"2026-10-{day:02d}")
    assert lookout_of(store).look() == []


def test_a_kill_at_any_look_loses_no_alarm_and_opens_none_twice(store):
    """Each look is a new service's, which knows only what is kept."""
    rng = np.random.default_rng(1)
    history(store, rng)
    lookout_of(store).look()
    for _ in range(25):
        pour(store, batches(rng, 100, WORSE))
        lookout_of(store).look()
    assert [one.opened.category for one in alarms(store)].count(None) == 1


def test_a_look_that_could_not_be_kept_is_made_again(store):
    rng = np.random.default_rng(1)
    history(store, rng)
    lookout = lookout_of(store)
    lookout.look()
    keep, failed = lookout._keep, []

    def failing(*given):
        failed.append(given)
        raise RegistryError("the disk is full")

    for _ in range(25):
        pour(store, batches(rng, 100, WORSE))
        lookout._keep = failing
        with pytest.raises(RegistryError):
            lookout.look()
        lookout._keep = keep
        lookout.look()
    assert len(failed) == 25
    assert [one.opened.category for one in alarms(store)].count(None) == 1
    (kept,) = [one.opened for one in alarms(store) if one.opened.category is None]
    assert kept.before.trials + kept.since.trials <= 14_500


def test_of_two_services_on_one_database_one_tells(store):
    rng = np.random.default_rng(1)
    history(store, rng)
    two = [lookout_of(store), lookout_of(store)]
    found = []
    for _ in range(25):
        pour(store, batches(rng, 100, WORSE))
        found += [notice for lookout in two for notice in lookout.look()]
    assert len(found) == len(places(found)) == len(alarms(store))
    assert ("opened", "takeover", None) in places(found)


def within_10_seconds(holds) -> bool:
    until = time.monotonic() + 10
    while not holds() and time.monotonic() < until:
        time.sleep(0.01)
    return holds()


def test_a_look_that_fails_for_any_reason_is_told_and_made_again(store, monkeypatch):
    monkeypatch.setattr("evenhand.service.lookout._LOOK_SECONDS", 0.01)
    lookout, away = lookout_of(store), [True]

    def then():
        if away:
            raise PermissionError(13, "Permission denied", "log/000001.json")

    lookout.then = then
    lookout.start()
    assert within_10_seconds(lambda: lookout.failing is not None)
    assert "Permission denied" in lookout.failing
    away.clear()
    assert within_10_seconds(lambda: lookout.failing is None)
    lookout.stop()
    assert lookout.failing is None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_has_ended_is_told(store, monkeypatch):
    monkeypatch.setattr("evenhand.service.lookout._LOOK_SECONDS", 0.01)
    lookout = lookout_of(store)
    assert lookout.failing is None
    lookout.then = lambda: sys.exit()
    lookout.start()
    assert within_10_seconds(lambda: lookout.failing is not None)
    assert "restart the service" in lookout.failing


def test_nothing_is_looked_at_until_enough_came(store):
    rng = np.random.default_rng(2)
    lookout = lookout_of(store)
    history(store, rng)
    lookout.look()
    version = "SELECT version FROM watches"
    with store.database.reading() as execute:
        assert execute(version) == [(1,)]
    pour(store, [Batch("billing", 99, 0, {"takeover": 99})])
    lookout.look()
    with store.database.reading() as execute:
        assert execute(version) == [(1,)]
    pour(store, [Batch("billing", 1, 0, {})])
    lookout.look()
    with store.database.reading() as execute:
        assert execute(version) == [(2,)]
    assert lookout.missing("t") == 0
    assert lookout.missing("nobody") == 10_000


def test_senders_of_many_categories_lose_no_draft_and_keep_the_watch_small(store):
    lookout = lookout_of(store, baseline_drafts=100, category_drafts=10)
    for round_number in range(6):
        pour(store, [Batch(f"made-up-{round_number}-{i}", 3, 1, {"takeover": 1}) for i in range(100)])
        pour(store, [Batch("billing", 100, 0, {"takeover": 5})])
        lookout.look()
    watch = lookout._sights["t"].watch
    assert watch.drafts == 6 * 400
    assert watch._series["takeover", None].total.hits == 6 * 105
    assert watch._series["takeover", "billing"].total.trials == 600
    assert len(watch._by_category) <= MOST_CATEGORIES + 1


def test_counts_are_those_of_the_roll_ups_and_add_up(store):
    traffic = list(batches(np.random.default_rng(3), 1000))
    pour(store, traffic)
    pour(store, traffic, tenant="other")
    counts = read_counts(store.database, ("category",), "t")
    for batch in traffic:
        found = counts[(batch.category,)]
        assert (found.drafts, found.thumbs, dict(found.hits)) == (batch.drafts, batch.thumbs, dict(batch.hits))
        assert found.tally("thumb_down").trials == batch.thumbs
    assert total(counts.values()).drafts == 1000
    assert Counts(10, 0, {"edit": 12}).tally("edit").rate == 1.0
    assert read_counts(store.database, ("category",), "t", since="2026-11-26") == {}
    assert read_counts(store.database, ("category",), "t", models={"harbor-2", "harbor-1"}) == counts
    assert read_counts(store.database, ("category",), "t", models={"harbor-1"}) == {}


def decided(store, registry, rates, rng) -> tuple[Lookout, Production]:
    """harbor-1 wrote twelve thousand drafts, and three thousand beside as many of harbor-2 since."""
    production = Production(str(registry))
    history(store, rng)
    lookout = lookout_of(store)
    lookout.look()
    for day in range(1, 11):
        for _ in range(3):
            pour_side_by_side(store, rng, rates, f"2026-12-{day:02d}")
            lookout.look()
    return lookout, production


def test_a_rise_that_the_fallback_did_not_have_is_reason_to_roll_back(store, tmp_path):
    _, production = decided(store, registry_of(tmp_path, "harbor-1", "harbor-2"), WORSE, np.random.default_rng(1))
    advice = advise(store.database, alarms(store, "t"), production.release)
    assert advice.advised
    assert (advice.incumbent, advice.fallback) == ("harbor-2", "harbor-1")
    assert advice.difference.low > 0
    assert advice.words.startswith("roll back to harbor-1: side by side, takeover in ")


def test_a_rise_of_both_models_is_none(store, tmp_path):
    """The registry says that harbor-2 replaced harbor-1, but events of both rise alike."""
    registry, rng = registry_of(tmp_path, "harbor-1", "harbor-2"), np.random.default_rng(1)
    history(store, rng, "elsewhere")
    lookout = lookout_of(store)
    lookout.look()
    for look in range(15):
        for model in ("harbor-1", "harbor-2"):
            pour(store, batches(rng, 100, WORSE), f"2026-12-{1 + look // 3:02d}", model)
            lookout.look()
    advice = advise(store.database, alarms(store, "t"), Production(str(registry)).release)
    assert not advice.advised
    assert "look for another cause" in advice.words


def rolled_back(store: Store, registry) -> tuple[bool, str]:
    """Whether an alarm on takeover is reason to roll back, and the words; the policy did the same."""
    notice = Notice("opened", "takeover", None, Tally(800, 10_000), Tally(300, 2000), 20.0, 10.6)
    with store.database.writing() as execute:
        add_record(execute, TOPIC, {"tenant": "t", **notice.json()}, LATER_MS)
    production = Production(str(registry))
    advice = advise(store.database, alarms(store), production.release)
    roll_back_by_policy(store, production, ("t",), "2027-02-01T00:00:00+00:00")
    assert (production.release.incumbent == "harbor-1") is advice.advised
    return advice.advised, advice.words


def test_an_outage_after_a_full_switch_is_no_reason_as_the_fallback_was_not_there(store, tmp_path):
    """On the day of the switch both served, harbor-2 alone in the outage of the afternoon."""
    rng = np.random.default_rng(2)
    history(store, rng)
    pour(store, batches(rng, 400), "2026-11-21", "harbor-1")
    pour(store, batches(rng, 400, {**RATES, "takeover": 0.5}), "2026-11-21", "harbor-2")
    pour(store, batches(rng, 600, {**RATES, "takeover": 0.5}), "2026-11-22", "harbor-2")
    advised, words = rolled_back(store, registry_of(tmp_path, "harbor-1", "harbor-2"))
    assert not advised
    assert "did not run side by side long enough" in words
    assert "(0 drafts of each to compare, 100 are needed)" in words


def test_an_outage_in_which_the_new_model_served_most_is_no_reason(store, tmp_path):
    """Half and half on quiet days, then nineteen drafts in twenty on bad ones."""
    rng = np.random.default_rng(2)
    for day in range(1, 13):
        rates = RATES if day < 7 else {**RATES, "takeover": 0.4}
        for model, drafts in (("harbor-1", 300 if day < 7 else 30), ("harbor-2", 300 if day < 7 else 570)):
            pour(store, batches(rng, drafts, rates), f"2026-11-{day:02d}", model)
    advised, words = rolled_back(store, registry_of(tmp_path, "harbor-1", "harbor-2"))
    assert not advised
    assert "look for another cause" in words


def test_a_model_that_was_given_the_hard_category_is_not_worse_for_that(store, tmp_path):
    rng = np.random.default_rng(2)
    for day in range(1, 13):
        for model, easy, hard in (("harbor-1", 250, 50), ("harbor-2", 50, 250)):
            taken = {"billing": rng.binomial(easy, 0.05), "technical": rng.binomial(hard, 0.3)}
            drafts = {"billing": easy, "technical": hard}
            came = [Batch(name, drafts[name], 0, {"takeover": int(hits)}) for name, hits in taken.items()]
            pour(store, came, f"2026-11-{day:02d}", model)
    advised, words = rolled_back(store, registry_of(tmp_path, "harbor-1", "harbor-2"))
    assert not advised
    assert "1,000 drafts of each" in words


def test_alarms_from_before_a_release_are_not_held_against_it(store, tmp_path):
    _, production = decided(store, registry_of(tmp_path, "harbor-1", "harbor-2"), WORSE, np.random.default_rng(1))
    release = production.release
    found = alarms(store, "t")
    assert advise(store.database, found, replace(release, since_ms=LATER_MS + 1)) is None
    assert advise(store.database, found, None) is None
    assert advise(store.database, [], release) is None
    assert not advise(store.database, found, replace(release, fallback=None)).advised


def test_alarms_of_a_tenant_whom_the_policy_does_not_name_roll_nothing_back(store, tmp_path):
    _, production = decided(store, registry_of(tmp_path, "harbor-1", "harbor-2"), WORSE, np.random.default_rng(1))
    assert advise(store.database, alarms(store, "t"), production.release).advised
    service = make_service(store.database, policy=Policy(rollback="automatic"), shipped=production)
    service.lookout.then()
    assert production.read().incumbent == "harbor-2"
    named = Policy(rollback="automatic", rollback_tenants=("default", "t"))
    make_service(store.database, policy=named, shipped=production).lookout.then()
    assert production.read().incumbent == "harbor-1"


def test_the_policy_rolls_back_once_and_a_person_only_what_is_in_production(store, tmp_path):
    registry = registry_of(tmp_path, "harbor-0", "harbor-1", "harbor-2")
    _, production = decided(store, registry, WORSE, np.random.default_rng(1))
    for _ in range(3):
        roll_back_by_policy(store, production, ("t",), "2027-02-01T00:00:00+00:00")
    state = state_of(read_log(production.registry))
    assert state.incumbent == "harbor-1"
    last = read_log(production.registry)[-1].content
    assert last["who"] == "evenhand monitor, by its policy"
    assert last["why"].startswith("roll back to harbor-1")
    decision = Decision("ann", "2027-02-01T00:00:00+00:00", "")
    with pytest.raises(RegistryError, match="harbor-1 was put into production meanwhile"):
        carry_out(production, decision, "harbor-2")
    assert carry_out(production, decision, "harbor-1")["name"] == "harbor-0"
