"""Event to judgment to data hash to model, in both directions, and what an erasure makes of data made earlier."""

import json

import pytest
from happenings import production
from typer.testing import CliRunner

from evenhand.cli.main import app
from evenhand.data.preparation import Wanted, prepare
from evenhand.errors import UserError
from evenhand.lifecycle.manifest import write_manifest
from evenhand.service.flywheel.collection import Order, collect
from evenhand.service.flywheel.lineage import trace
from evenhand.service.flywheel.shelf import Shelf
from evenhand.service.shipping import into_store
from evenhand.service.simulate import Simulation, simulated


def curated(folder, out):
    prepare(str(folder), out, Wanted(validation=0.2), lambda _: None)
    return out


@pytest.fixture
def made(tmp_path):
    """A production of 300 drafts with what was collected and curated of it, and an export that says so."""
    with production(tmp_path / "m") as happens:
        into_store(happens.store, "default", simulated(Simulation(300, seed=2)), lambda _: None)
        collect(happens.store, Order(), Shelf.at(tmp_path / "collected"))
        data = curated(tmp_path / "collected", tmp_path / "v1")
        (tmp_path / "ship").mkdir()
        (tmp_path / "ship" / "weights").write_text("w")
        dataset = json.loads((data / "dataset.json").read_text())
        write_manifest(tmp_path / "ship", {"name": "harbor-2", "data": {"hash": dataset["hash"]}})
        yield happens, tmp_path


def test_every_pair_is_traced_from_model_to_events_and_back(made):
    happens, tmp_path = made
    lineage = trace(tmp_path / "collected", tmp_path / "v1", tmp_path / "ship")
    told = lineage.json(None)
    assert (told["problems"], told["erased"], told["model"]) == ([], [], "harbor-2")
    assert told["pairs"] == told["traced"] > 30
    known = {stored.id: stored for stored in happens.store.events("default", ("edit", "takeover", "draft"), limit=5000)}
    for name, events in lineage.pairs.items():
        kinds = sorted(known[event].kind for event in events)
        assert kinds in (["draft", "edit"], ["draft", "takeover"]), (name, kinds)
        assert all(name in lineage.resting_on(event) for event in events)


def test_after_an_erasure_the_old_data_is_named_and_new_data_is_clean(made):
    happens, tmp_path = made
    before = trace(tmp_path / "collected", tmp_path / "v1", None)
    name, events = next(iter(before.pairs.items()))
    conversation = "c" + events[0].removeprefix("s").removesuffix("-draft")
    assert events[0] in happens.store.erase("default", "conversation", conversation, 0)
    collect(happens.store, Order(), Shelf.at(tmp_path / "collected"))
    stale = trace(tmp_path / "collected", tmp_path / "v1", None)
    assert stale.erased == (name,)
    assert "1 pairs of" in stale.problems[0]
    curated(tmp_path / "collected", tmp_path / "v2")
    clean = trace(tmp_path / "collected", tmp_path / "v2", None)
    assert (clean.erased, clean.problems) == ((), ())
    words = ["monitor", "trace", events[0], "--collected", str(tmp_path / "collected"), "--json", "--data"]
    for data, code, rests in (("v1", 1, [name]), ("v2", 0, [])):
        done = CliRunner().invoke(app, [*words, str(tmp_path / data)])
        assert (done.exit_code, json.loads(done.stdout)["rests_on_it"]) == (code, rests)
    assert clean.data != before.data
    assert set(before.pairs) - set(clean.pairs) == {name}
    assert trace(tmp_path / "collected", tmp_path / "v2", tmp_path / "ship").problems == (
        f"{tmp_path / 'ship'} was trained on other data than {tmp_path / 'v2'}",
    )


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85"])
def test_pairs_of_an_annotator_with_a_line_break_of_unicode_are_traced(tmp_path, mark):
    with production(tmp_path / "m") as happens:
        for at in range(8):
            happens.draft(f"d{at}", f"Question {at} about {'xyz'[at % 3] * 5}?", f"Draft {at}: we shall see.")
            words = f"Answer {at} is a different text in {at * 7} words."
            happens.happen("edit", f"d{at}", text=f"Draft {at}: we shall see.", sent=words, actor=f"Ann{mark}Lee")
        collect(happens.store, Order(), Shelf.at(tmp_path / "collected"))
    told = trace(tmp_path / "collected", curated(tmp_path / "collected", tmp_path / "v1"), None).json(None)
    assert (told["pairs"], told["traced"], told["problems"]) == (8, 8, [])


def test_a_changed_file_and_no_collection_are_told(made):
    _, tmp_path = made
    judgments = tmp_path / "collected" / "judgments.jsonl"
    judgments.write_text(judgments.read_text().replace("agent-0", "agent-9", 1))
    problems = trace(tmp_path / "collected", tmp_path / "v1", None).problems
    assert f"{judgments} was changed after it was collected" in problems
    with pytest.raises(UserError, match="is not there; give a folder or file that `evenhand collect` wrote"):
        trace(tmp_path / "nothing", None, None)
