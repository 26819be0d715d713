"""The client loses nothing: not what a dead process left, not on closing, not behind an event that no service takes."""

import json
import time

import pytest
from served_page import served

from evenhand.service.app import make_service
from evenhand.service.client import Client, Draft
from evenhand.service.keys import make_key
from evenhand.service.limits import EVENT_BYTES
from evenhand.service.place import open_database
from evenhand.service.spool import Spool

REPLY = Draft("d1", "c1", "harbor-2", "delivery", "Your parcel is on its way.")


@pytest.fixture
def service(tmp_path):
    database = open_database(str(tmp_path / "events.db"))
    yield make_service(database)
    database.close()


@pytest.fixture
def key(service):
    made = make_key(service.store.database, "default", "write", 0)
    service.keyring.read()
    return made


def left_by_a_dead_process(folder, events: int) -> None:
    """A spool that nobody sends: what a process leaves that ends while the service is away."""
    with Client("http://127.0.0.1:9", "evk", folder, send=False) as client:
        for _ in range(events):
            client.sent(REPLY)


def until(holds, seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.005)
    return bool(holds())


def refused(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "refused" / "events.jsonl").read_text().splitlines()]


def test_a_client_that_is_closed_while_it_sends_what_dead_processes_left_keeps_the_rest(service, key, tmp_path):
    folder = tmp_path / "spool"
    for events in (1200, 300):
        left_by_a_dead_process(folder, events)
    torn = sorted(folder.glob("*.jsonl"))[0]
    torn.write_bytes(torn.read_bytes() + b'{"id": "torn')
    with served(service) as url:
        closed = Client(url, key, folder)
        assert until(lambda: service.store.head()[0] > 0)
        closed.close()
        assert service.store.head()[0] < 1500
        with Client(url, key, folder):
            assert until(lambda: len(list(folder.glob("*.jsonl"))) == 1)
    assert service.store.head()[0] == 1500
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("characters", [EVENT_BYTES, 2_000_000])
def test_an_event_that_no_service_takes_is_set_aside_and_what_comes_after_it_is_sent(
    service, key, tmp_path, characters
):
    with served(service) as url, Client(url, key, tmp_path / "spool") as client:
        client.send(REPLY, "sent", reason="x" * characters)
        client.sent(REPLY)
        assert client.flush(30)
    assert service.store.head()[0] == 1
    (one,) = refused(tmp_path / "spool")
    assert one["problem"]["reason"] == "too_large"
    assert len(json.loads(one["event"])["reason"]) == characters


def test_a_spool_gives_a_line_that_is_longer_than_asked_for_alone_and_whole(tmp_path):
    spool = Spool.new(tmp_path)
    lines = [b"a\n", b"b" * 100 + b"\n", b"c\n", b"d\n"]
    for line in lines:
        spool.append(line, durable=False)
    spool.append(b"torn" * 10, durable=False)
    given = []
    while found := spool.first(500, 10):
        given.append(found)
        spool.sent(found)
    assert given == [lines[:1], lines[1:2], lines[2:]]
    assert spool.waits
    spool.close(remove=True)


def test_a_client_that_cannot_set_an_event_aside_says_so_and_sends_on_once_it_can(service, key, tmp_path):
    blocked = tmp_path / "spool" / "refused"
    blocked.parent.mkdir()
    blocked.write_text("")
    with served(service) as url, Client(url, key, blocked.parent) as client:
        client.send(REPLY, "sent", reason="x" * EVENT_BYTES)
        client.sent(REPLY)
        assert until(lambda: client.problem is not None)
        assert "refused" in client.problem
        blocked.unlink()
        assert client.flush(30)
    assert service.store.head()[0] == 1
