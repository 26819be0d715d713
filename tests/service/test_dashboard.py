"""The page says what the store holds, to those who may read it, and takes decisions from its own forms only."""

import hashlib
import re
import socket
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from fastapi.testclient import TestClient
from quiet_traffic import RATES, batches, pour, pour_side_by_side
from served_page import NOW, event, served
from small_registry import registry_of, shipped

from evenhand.lifecycle.manifest import manifest_hash
from evenhand.lifecycle.registry import Registry, read_log, state_of
from evenhand.service.alarm import Notice
from evenhand.service.app import make_app, make_service, protected
from evenhand.service.bins import bin_of
from evenhand.service.counts import Counts
from evenhand.service.keys import Key, make_key, revoke_key
from evenhand.service.limits import Limits
from evenhand.service.lineage import lineage
from evenhand.service.lookout import TOPIC
from evenhand.service.overview import median, moments, read_overview
from evenhand.service.place import open_database
from evenhand.service.production import Production
from evenhand.service.session import COOKIE, SESSION_HOURS, begin_session
from evenhand.service.trends import trend_panels
from evenhand.service.trouble import passages, worst

ORIGIN = {"Origin": "http://127.0.0.1"}
TODAY = NOW.date().isoformat()


@pytest.fixture
def service(tmp_path):
    database = open_database(str(tmp_path / "events.db"))
    yield make_service(database, shipped=Production(str(registry_of(tmp_path, "harbor-1", "harbor-2"))))
    database.close()


@pytest.fixture
def client(service):
    with TestClient(protected(make_app(service)), base_url="http://127.0.0.1") as found:
        yield found


def key(service, role: str, tenant: str = "default") -> str:
    made = make_key(service.store.database, tenant, role, 0)
    service.keyring.read()
    return made


def keyed(service, role: str) -> Key:
    return service.keyring.find(key(service, role))


def sign_in(client, service, role: str = "read", tenant: str = "default"):
    return client.post("/login", data={"key": key(service, role, tenant)}, headers=ORIGIN, follow_redirects=False)


def add(service, *events) -> None:
    service.store.append(events, int(NOW.timestamp() * 1000))


def test_a_key_typed_once_opens_the_page_and_stays_out_of_reach_of_scripts(client, service):
    assert client.get("/").status_code == 401
    assert "password" in client.get("/").text
    answer = sign_in(client, service)
    assert answer.status_code == 303
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    page = client.get("/")
    assert page.status_code == 200
    assert "evk_" not in page.text
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert re.search(r"<style|style=|<script(?! src=)|\son\w+=", page.text) is None
    client.post("/logout", headers=ORIGIN)
    assert client.get("/").status_code == 401


def test_the_cookie_is_no_key_and_opens_the_page_only(client, service):
    given = key(service, "admin")
    client.post("/login", data={"key": given}, headers=ORIGIN)
    token = client.cookies[COOKIE]
    assert given not in str(client.cookies)
    assert client.get("/v1/events").status_code == 401
    assert client.get("/v1/keys", headers={"Authorization": f"Bearer {token}"}).status_code == 401
    assert client.get("/", headers={"Authorization": f"Bearer {token}"}).status_code == 401
    with service.store.database.reading() as execute:
        assert execute("SELECT digest FROM sessions") == [(hashlib.sha256(token.encode()).hexdigest(),)]
    client.cookies.clear()
    for cookie in (given, token[:-1], ""):
        assert client.get("/", headers={"Cookie": f"{COOKIE}={cookie}"}).status_code == 401
    assert client.get("/", headers={"Cookie": f"{COOKIE}={token}"}).status_code == 200


def test_a_session_ends_with_its_hours_a_logout_or_its_key(client, service):
    given = key(service, "read")

    def session() -> dict[str, str]:
        assert client.post("/login", data={"key": given}, headers=ORIGIN, follow_redirects=False).status_code == 303
        cookie = {"Cookie": f"{COOKIE}={client.cookies[COOKIE]}"}
        client.cookies.clear()
        assert client.get("/", headers=cookie).status_code == 200
        return cookie

    old = session()
    wall = service.clock.wall
    service.clock.wall = lambda: wall() + SESSION_HOURS * 3600 - 60
    assert client.get("/", headers=old).status_code == 200
    service.clock.wall = lambda: wall() + SESSION_HOURS * 3600 + 60
    assert client.get("/", headers=old).status_code == 401
    left = session()
    with service.store.database.reading() as execute:
        assert execute("SELECT COUNT(*) FROM sessions") == [(1,)]
    client.post("/logout", headers=ORIGIN | left)
    assert client.get("/", headers=left).status_code == 401
    revoked = session()
    revoke_key(service.store.database, "default", given.split("_")[1], 1)
    service.keyring.read()
    assert client.get("/", headers=revoked).status_code == 401


def test_wrong_keys_and_writers_are_told_why(client, service):
    wrong = client.post("/login", data={"key": "evk_0"}, headers=ORIGIN)
    assert (wrong.status_code, "no key in use" in wrong.text) == (401, True)
    writer = sign_in(client, service, "write")
    assert (writer.status_code, "set-cookie" in writer.headers) == (403, False)
    bearer = {"Authorization": f"Bearer {key(service, 'write')}"}
    assert client.get("/", headers=bearer).status_code == 401


@pytest.mark.parametrize(
    "headers", [{}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:9"}, {"Origin": "http://evil.example"}]
)
def test_forms_are_taken_from_the_page_itself_only(client, service, headers):
    sign_in(client, service, "admin")
    for path in ("/login", "/logout", "/rollback"):
        assert client.post(path, data={"key": "x"}, headers=headers).status_code == 403
    assert client.get("/").status_code == 200


@pytest.mark.parametrize("path", ["/login", "/logout", "/rollback"])
def test_a_form_that_does_not_arrive_in_time_is_given_up(service, path):
    with served(replace(service, limits=Limits(body_seconds=0.2))) as url:
        host = url.removeprefix("http://")
        head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: {url}\r\nContent-Length: 100\r\n"
        token = begin_session(service.store.database, keyed(service, "admin"), service.clock.now_ms())
        head += f"Cookie: {COOKIE}={token}\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\nkey="
        with socket.create_connection(host.split(":"), timeout=10) as slow:
            slow.sendall(head.encode())
            assert slow.recv(100).startswith(b"HTTP/1.1 408 ")


def test_another_host_is_refused(client):
    for path in ("/", "/page.js", "/conversation?name=x"):
        assert client.get(path, headers={"Host": "evil.example"}).status_code == 421


def test_the_page_tells_numbers_of_its_own_tenant_only(client, service):
    rng = np.random.default_rng(0)
    traffic = list(batches(rng, 2000))
    pour(service.store, traffic, TODAY, tenant="default")
    pour(service.store, batches(rng, 700), TODAY, "secret-model", "other")
    sign_in(client, service)
    text = client.get("/").text
    taken = sum(batch.hits["takeover"] for batch in traffic)
    assert f"{taken / 20:.1f} %" in text
    assert "of 2,000 drafts" in text
    assert "secret-model" not in text
    for batch in traffic:
        assert f"{batch.drafts:,}" in text
    assert "8,000 more drafts are needed" in text


@pytest.mark.parametrize("path", ["/", "/?days=7", "/?days=365", "/?days=5", "/conversation?name=none"])
def test_a_store_without_events_has_a_page(client, service, path):
    sign_in(client, service)
    assert client.get(path).status_code == (404 if "none" in path else 200)


def test_what_is_no_number_or_name_is_refused_not_failed(client, service):
    sign_in(client, service)
    assert client.get("/?days=x").status_code == 422
    assert client.get("/conversation?name=%00").status_code == 422
    assert client.get("/conversation", params={"name": "x" * 201}).status_code == 422


def test_what_went_wrong_most_is_read_first_and_in_full(client, service):
    add(
        service,
        event("default", "a", "draft", text="First reply\u202e. Write to ann@example.org."),
        event("default", "b", "draft", text="Second reply."),
        event("default", "c", "draft"),
        event("default", "a", "edit", text="First reply.", sent="First reply!"),
        event("default", "b", "takeover", actor="agent-7"),
        event("default", "b", "thumb", up=False, reason="rude"),
        event("default", "c", "thumb", up=True),
        event("other", "d", "takeover"),
    )
    found = worst(service.store, "default")
    assert [one.conversation for one in found] == ["c-b", "c-a"]
    assert found[0].what == ("taken over", "thumb down")
    assert found[1].reply == "First reply[U+202E]. Write to [e-mail]."
    assert [one.what for one in passages(service.store, "default", "c-b")] == ["drafted", "taken over", "thumb down"]
    sign_in(client, service)
    assert f"the last event came {NOW:%Y-%m-%d %H:%M} UTC" in client.get("/").text
    page = client.get("/conversation", params={"name": "c-b"}).text
    assert "agent-7" in page
    assert "rude" in page
    assert client.get("/conversation", params={"name": "c-d"}).status_code == 404
    service.store.erase("default", "conversation", "c-b", 0)
    assert [one.conversation for one in worst(service.store, "default")] == ["c-a"]


def test_medians_and_means_of_bins_are_near_those_of_the_values(service):
    values = np.random.default_rng(5).lognormal(5, 0.6, 4000).round() + 1
    histogram: dict[int, int] = {}
    for value in values:
        histogram[bin_of(value)] = histogram.get(bin_of(value), 0) + 1
    middle, low, high = median(histogram)
    assert middle == pytest.approx(np.median(values), rel=0.04)
    assert low < middle < high
    assert moments(histogram).mean == pytest.approx(values.mean(), rel=0.02)
    assert moments(histogram).variance == pytest.approx(values.var(), rel=0.05)


def test_a_model_is_marked_on_the_day_of_its_first_draft(service):
    rng = np.random.default_rng(2)
    first, second = ((NOW - timedelta(days=days)).date().isoformat() for days in (20, 6))
    pour(service.store, batches(rng, 500), first, "harbor-1", "default")
    pour(service.store, batches(rng, 500), second, "harbor-2", "default")
    pour(service.store, batches(rng, 500), TODAY, "harbor-2", "default")
    overview = read_overview(service.store.database, "default", 28, int(NOW.timestamp() * 1000))
    assert [(life.model, life.first_day, life.counts.drafts) for life in overview.lives] == [
        ("harbor-2", second, 1000),
        ("harbor-1", first, 500),
    ]
    assert len(overview.days) == 28
    assert overview.days[-1] == TODAY
    assert overview.whole.drafts == 1500
    assert overview.by_day[second] == Counts(500, overview.by_day[second].thumbs, overview.by_day[second].hits)
    takeover = next(panel for panel in trend_panels(overview) if panel.title.startswith("Takeover"))
    assert takeover.chart.count('class="release"') == 4
    assert len(trend_panels(overview)) == 5


def test_notices_of_the_door_are_counted_with_what_they_mean(client, service):
    service.store.note({("default", "late"): 41, ("other", "late"): 5, ("", "forged"): 2}, int(NOW.timestamp() * 1000))
    sign_in(client, service)
    text = client.get("/").text
    assert re.search(r"late<span.*?more than a day old.*?</span></th><td>41</td>", text)
    assert re.search(r"forged<span.*?</th><td>2</td>", text)


def test_the_model_in_production_is_told_down_to_its_data(client, service, tmp_path):
    sign_in(client, service)
    text = client.get("/").text
    assert manifest_hash(tmp_path / "harbor-2") in text
    for told in ("d" * 64, "5" * 64, "c" * 64, "tie 400", "0.700 [0.650, 0.750] n=400", "A card."):
        assert told in text
    assert lineage(tmp_path / "absent").problem
    assert lineage(shipped(tmp_path / "odd", "odd", data=None)).problem


def test_a_registry_that_is_away_is_said_to_be_and_its_model_stays_in_production(
    client, service, tmp_path, monkeypatch
):
    monkeypatch.setattr("evenhand.service.production._REGISTRY_SECONDS", 0.0)
    sign_in(client, service)
    (tmp_path / "registry").rename(tmp_path / "elsewhere")
    text = client.get("/").text
    assert "in production harbor-2" in text
    assert "holds no registry any more" in text
    (tmp_path / "elsewhere").rename(tmp_path / "registry")
    text = client.get("/").text
    assert "in production harbor-2" in text
    assert "holds no registry any more" not in text


def test_without_a_registry_a_folder_tells_of_the_model_and_nothing_else_is_offered(service, tmp_path):
    alone = make_service(service.store.database, shipped=tmp_path / "harbor-1")
    bearer = {"Authorization": f"Bearer {key(alone, 'admin')}"}
    with TestClient(protected(make_app(alone)), base_url="http://127.0.0.1") as client:
        text = client.get("/", headers=bearer).text
        assert "harbor-1: from what is shipped" in text
        assert 'action="/rollback"' not in text
        wish = {"instead_of": "harbor-1", "who": "ann"}
        assert client.post("/v1/rollback", headers=bearer, json=wish).status_code == 404


def test_a_fallback_is_brought_back_by_an_admin_on_the_page(client, service):
    place = service.production.registry.place
    sign_in(client, service, "read")
    assert 'action="/rollback"' not in client.get("/").text
    token = re.search(r'name="token" value="(\w+)"', client.get("/").text)[1]
    wish = {"instead_of": "harbor-2", "who": "ann", "why": "takeovers", "token": token}
    assert client.post("/rollback", data=wish, headers=ORIGIN).status_code == 403
    sign_in(client, service, "admin")
    assert client.post("/rollback", data=wish, headers=ORIGIN).status_code == 403
    wish["token"] = re.search(r'name="token" value="(\w+)"', client.get("/").text)[1]
    for other in ("harbor-9", ""):
        assert client.post("/rollback", data=wish | {"instead_of": other}, headers=ORIGIN).status_code == 409
    assert state_of(read_log(Registry(place))).incumbent == "harbor-2"
    assert client.post("/rollback", data=wish, headers=ORIGIN, follow_redirects=False).status_code == 303
    entry = read_log(Registry(place))[-1].content
    assert (entry["name"], entry["who"], entry["why"]) == ("harbor-1", "ann", "takeovers")
    again = client.post("/rollback", data=wish, headers=ORIGIN)
    assert (again.status_code, "Not done" in again.text) == (409, True)


def test_open_alarms_come_first_and_closed_ones_stay_in_the_history(client, service):
    rng = np.random.default_rng(1)
    days = [(NOW - timedelta(days=ago)).date().isoformat() for ago in range(20, 0, -1)]
    pour(service.store, batches(rng, 12_000, RATES), days[0], "harbor-1", "default")
    service.lookout.look()
    for day in days[1:11] * 3:
        pour_side_by_side(service.store, rng, {**RATES, "takeover": 0.14}, day, "default")
        service.lookout.look()
    sign_in(client, service)
    text = client.get("/").text
    assert re.search(r"<h1[^>]*>\d alarms? open", text)
    assert "Roll back to harbor-1: side by side, takeover in" in text
    for opened in service.lookout._sights["default"].watch.open.values():
        assert isinstance(opened, Notice)
        service.store.record(TOPIC, {"tenant": "default", **opened.json(), "what": "closed"}, 0)
    text = client.get("/").text
    assert "All quiet" in text
    assert "takeover in all drafts" in text.partition('id="alarms"')[2]
    service.lookout.stop()
    service.lookout._failed = "the registry is away."
    text = client.get("/").text
    assert "the registry is away." in text
    assert "All quiet" not in text
