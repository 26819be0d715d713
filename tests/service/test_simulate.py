"""The invented team: the same from its seed, with the rates that were asked for, and a change where it was asked for."""

import json
import math
from collections import Counter

import pytest
from happenings import production
from typer.testing import CliRunner

from evenhand.cli.main import app
from evenhand.errors import UserError
from evenhand.service.chain import verify
from evenhand.service.event import read_event
from evenhand.service.shipping import into_store
from evenhand.service.simulate import Behaviour, Simulation, simulated

BEFORE = Behaviour(edit=0.1, takeover=0.08, escalation=0.03, abandoned=0.04, thumb=0.2, up=0.9)
AFTER = Behaviour(edit=0.1, takeover=0.25, escalation=0.03, abandoned=0.04, thumb=0.2, up=0.9)


def fates(events, low: int, high: int) -> Counter:
    own = [event for event in events if low <= int(event["id"].split("-")[1]) < high]
    return Counter(event["kind"] for event in own)


def test_behaviour_has_its_rates_and_changes_at_the_draft_that_was_named():
    wanted = Simulation(4000, seed=3, change_at=2000, before=BEFORE, after=AFTER)
    events = list(simulated(wanted))
    for behaviour, span in ((BEFORE, (0, 2000)), (AFTER, (2000, 4000))):
        seen = fates(events, *span)
        assert seen["draft"] == 2000
        for kind in ("edit", "takeover", "escalation", "abandoned", "thumb"):
            rate = getattr(behaviour, kind)
            spread = 4 * math.sqrt(2000 * rate * (1 - rate))
            assert abs(seen[kind] - 2000 * rate) < spread, (kind, span, seen)
    changed = [event["kind"] for event in events if event["draft"] < "d3-002000"]
    assert changed == [
        e["kind"] for e in simulated(Simulation(4000, seed=3, before=BEFORE)) if e["draft"] < "d3-002000"
    ]


def test_every_event_is_one_drafts_come_first_and_edits_know_their_draft():
    shown = {}
    for body in simulated(Simulation(300, seed=1, change_at=100, after=AFTER)):
        event = read_event("default", json.dumps(body))
        if event.kind == "draft":
            assert event.prompt
            shown[event.draft] = event.text
        assert event.draft in shown
        if event.kind == "edit":
            assert event.text == shown[event.draft] != event.sent


def test_the_same_seed_gives_the_same_events_and_storing_them_again_adds_nothing(tmp_path):
    wanted = Simulation(60, seed=9)
    assert list(simulated(wanted)) == list(simulated(wanted)) != list(simulated(Simulation(60, seed=8)))
    told = []
    with production(tmp_path) as happens:
        first = into_store(happens.store, "default", simulated(wanted), told.append)
        again = into_store(happens.store, "default", simulated(wanted), told.append)
        assert verify(happens.store.database).problem is None
    assert (first, again) == (len(list(simulated(wanted))), 0)


def test_what_is_no_probability_is_refused():
    with pytest.raises(UserError, match=r"takeover is 1\.2; choose a probability"):
        Behaviour(takeover=1.2)
    with pytest.raises(UserError, match="add up to more than 1"):
        Behaviour(edit=0.7, takeover=0.4)


def test_the_command_stores_what_it_invents(tmp_path):
    words = ["monitor", "--folder", str(tmp_path / "m"), "simulate", "--drafts", "40", "--change-at", "20", "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["first_changed"] == "d0-000020"
    alone = CliRunner().invoke(app, [*words, "--to", "http://127.0.0.1:1"])
    assert "give --to and --key together" in str(alone.exception)
