"""The writer's thread goes on whatever a write fails of; where it has ended after all, requests and health say so at once."""

import sys
import threading
import time
from contextlib import contextmanager

import pytest
from fastapi.testclient import TestClient
from served_page import NOW

from evenhand.service.app import make_app, make_service, protected
from evenhand.service.keys import make_key
from evenhand.service.place import open_database
from evenhand.service.writer import Clock

DRAFT = {
    "id": "e1",
    "kind": "draft",
    "conversation": "c1",
    "draft": "d1",
    "at": NOW.isoformat(),
    "model": "m",
    "text": "x",
}


@pytest.fixture
def database(tmp_path):
    found = open_database(str(tmp_path / "events.db"))
    yield found
    found.close()


@contextmanager
def client_of(database, clock):
    """A client of the running service with a key that may write, and the service."""
    key = make_key(database, "default", "write", 0)
    service = make_service(database, clock=clock)
    headers = {"Authorization": f"Bearer {key}"}
    with TestClient(protected(make_app(service)), base_url="http://127.0.0.1", headers=headers) as client:
        yield client, service


def until(holds, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(holds())


def test_events_are_taken_after_a_moment_in_which_nothing_could_be_noted(database):
    ahead = [0.0]  # so far that no day has a name
    with client_of(database, Clock(wall=lambda: time.time() + ahead[0])) as (client, service):
        assert client.post("/v1/events", content=b"{not json").status_code == 400
        ahead[0] = 1e15
        time.sleep(2.5)  # the writer notes once a second
        ahead[0] = 0.0
        assert until(lambda: {"malformed", "clock_jump"} <= {notice.reason for notice in service.store.notices()})
        assert client.post("/v1/events", json=DRAFT).status_code == 200
        assert client.get("/healthz").status_code == 200


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_writer_that_has_ended_is_told_instead_of_waited_for(database):
    def wall() -> float:
        if threading.current_thread().name == "evenhand-writer":
            sys.exit()  # ends that thread alone
        return time.time()

    with client_of(database, Clock(wall=wall)) as (client, _):
        assert until(lambda: client.get("/healthz").status_code == 503)
        answer = client.post("/v1/events", json=DRAFT)
        assert answer.status_code == 503
        assert "restart the service" in answer.json()["message"]
