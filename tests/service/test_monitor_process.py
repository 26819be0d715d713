"""The service as its user starts it: a process, real HTTP, a real disk, and kill -9."""

import json
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from served import Served

from evenhand.service.client import Client

NOW = datetime.now(UTC).isoformat()


def draft(name: str, **changes) -> dict:
    event = {"id": name, "kind": "draft", "conversation": "c1", "draft": f"d-{name}", "at": NOW, "model": "harbor-2"}
    return event | {"text": "Your parcel is on its way.", "category": "delivery"} | changes


@pytest.fixture(scope="module", autouse=True)
def _none_is_left():
    yield
    for process in Served.started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def monitor(tmp_path_factory):
    served = Served(tmp_path_factory.mktemp("monitor"))
    yield served
    served.end()


def command(monitor, *words: str) -> tuple[int, dict]:
    line = [sys.executable, "-m", "evenhand", "monitor", "--folder", str(monitor.folder), *words, "--json"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, json.loads(done.stdout)


def stored(monitor) -> list[str]:
    answer = monitor.ask("GET", "/v1/events", monitor.keys["admin"], params={"limit": 1000})
    assert answer.status_code == 200, answer.text
    return [json.loads(line)["id"] for line in answer.text.splitlines()]


def test_an_event_sent_twice_counts_once_and_other_content_under_its_id_is_refused(monitor):
    write = monitor.keys["write"]
    answers = [monitor.ask("POST", "/v1/events", write, json=draft("twice")) for _ in range(2)]
    other = monitor.ask("POST", "/v1/events", write, json=draft("twice", text="Something else."))
    assert [answer.status_code for answer in answers] == [200, 200]
    assert [answer.json()["outcome"] for answer in answers] == ["stored", "replayed"]
    assert other.status_code == 409
    assert stored(monitor).count("twice") == 1


def test_of_a_batch_a_bad_event_is_refused_alone(monitor):
    lines = [draft("batch-0"), {"id": "batch-1", "kind": "edit"}, draft("batch-2")]
    body = "\n".join(json.dumps(line) for line in lines)
    headers = {"Content-Type": "application/x-ndjson"}
    answer = monitor.ask("POST", "/v1/events/batch", monitor.keys["write"], content=body, headers=headers)
    assert answer.status_code == 207
    assert {"batch-0", "batch-2"} <= set(stored(monitor))
    assert "batch-1" not in stored(monitor)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v1/events", {"write", "admin"}),
        ("GET", "/v1/events", {"read", "admin"}),
        ("GET", "/v1/rollups", {"read", "admin"}),
        ("GET", "/v1/keys", {"admin"}),
    ],
)
def test_each_role_may_do_what_it_is_for_and_nothing_else(monitor, method, path, allowed):
    if "read" not in monitor.keys:
        made = monitor.ask("POST", "/v1/keys", monitor.keys["admin"], json={"role": "read"})
        assert made.status_code in (200, 201), made.text
        monitor.keys["read"] = made.json()["key"]
    for role, key in monitor.keys.items():
        given = {"json": draft(f"role-{role}")} if method == "POST" else {}
        assert (monitor.ask(method, path, key, **given).status_code < 300) == (role in allowed), (role, path)
    assert monitor.ask(method, path).status_code == 401
    assert monitor.ask(method, path, "evk_" + "0" * 16 + "_" + "A" * 43).status_code == 401


def test_what_is_too_large_too_deep_or_no_json_has_its_status(monitor):
    write = monitor.keys["write"]

    def post(content: bytes) -> int:
        headers = {"Content-Type": "application/json"}
        return monitor.ask("POST", "/v1/events", write, content=content, headers=headers).status_code

    assert post(json.dumps(draft("large", text="x" * 70_000)).encode()) == 413
    assert post(b"[" * 50 + b"]" * 50) in (400, 413, 422)
    assert post(b"{not json") == 400
    assert post(json.dumps(draft("nul", text="a\x00b")).encode()) == 422
    forged = monitor.ask("GET", "/healthz", headers={"Host": "evil.example"})
    assert 400 <= forged.status_code < 500


def test_no_key_is_kept_in_the_database_as_it_was_shown(monitor):
    kept = b"".join(path.read_bytes() for path in monitor.folder.iterdir())
    for key in monitor.keys.values():
        assert key.split("_", 2)[2].encode() not in kept


def test_the_client_keeps_events_while_the_service_is_away(tmp_path):
    served = Served(tmp_path / "events")
    key = served.keys["write"]
    served.kill()
    with Client(served.url, key, tmp_path / "spool") as client:
        replies = [client.draft("c7", f"Reply {i}.", model="harbor-2", category="delivery") for i in range(10)]
        client.edit(replies[0], "A better reply.", actor="ann")
        assert client.waits
        served.start()
        assert client.flush(30)
    assert len(stored(served)) == 11
    served.end()


def test_one_changed_byte_of_a_stored_event_is_named(tmp_path):
    served = Served(tmp_path / "events")
    for i in range(5):
        assert served.ask("POST", "/v1/events", served.keys["write"], json=draft(f"tamper-{i}")).status_code == 200
    served.end()
    with sqlite3.connect(tmp_path / "events" / "events.db") as database:
        database.execute("UPDATE events SET body = replace(body, 'parcel', 'Parcel') WHERE seq = 3")
    database.close()
    code, found = command(served, "verify")
    assert code == 1
    assert "event 3" in found["problem"]
