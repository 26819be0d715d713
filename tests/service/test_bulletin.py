"""Alarms over HTTP, in Prometheus' text and on the command line; a rollback by a person, and by nobody else."""

import json
import re
import subprocess
import sys
import time
from datetime import UTC, datetime

import numpy as np
import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from quiet_traffic import RATES, batches, pour, pour_side_by_side
from small_registry import registry_of
from typer.testing import CliRunner

from evenhand.cli.main import app as command
from evenhand.errors import UserError
from evenhand.lifecycle.registry import Registry, read_log, state_of
from evenhand.service.alarm import NONE, Notice
from evenhand.service.app import make_app, make_service, protected
from evenhand.service.keys import ROLES, make_key
from evenhand.service.lookout import TOPIC
from evenhand.service.metrics import TenantCollector
from evenhand.service.place import open_database
from evenhand.service.policy import Policy
from evenhand.service.production import Production
from evenhand.service.sequence import Tally

WORSE = {**RATES, "takeover": 0.14}
LATER = datetime(2026, 11, 21, tzinfo=UTC).isoformat()


@pytest.fixture(scope="module")
def risen(tmp_path_factory):
    """A store in which takeover has risen since harbor-2 replaced harbor-1 in half of the drafts."""
    folder = tmp_path_factory.mktemp("risen")
    rng, database = np.random.default_rng(1), open_database(str(folder / "events.db"))
    service = make_service(database, shipped=Production(str(registry_of(folder, "harbor-1", "harbor-2", when=LATER))))
    for day in range(1, 21):
        pour(service.store, batches(rng, 600), f"2026-11-{day:02d}", "harbor-1", "default")
    service.lookout.look()
    for day in range(21, 31):
        for _ in range(3):
            pour_side_by_side(service.store, rng, WORSE, f"2026-11-{day:02d}", "default")
            service.lookout.look()
    service.store.note({("default", "late"): 1}, 0)
    keys = {role: make_key(database, "default", role, 0) for role in ROLES}
    keys["other"] = make_key(database, "other", "admin", 0)
    service.keyring.read()
    with TestClient(protected(make_app(service)), base_url="http://127.0.0.1") as client:
        yield folder, client, {role: {"Authorization": f"Bearer {key}"} for role, key in keys.items()}
    database.close()


def test_alarms_and_advice_are_told_to_readers_of_the_tenant(risen):
    _, client, keys = risen
    told = client.get("/v1/alarms", headers=keys["read"]).json()
    assert told["drafts_missing"] == 0
    assert {(one["opened"]["signal"], one["opened"]["category"], one["closed"]) for one in told["alarms"]} >= {
        ("takeover", None, None)
    }
    assert told["advice"]["advised"] is True
    assert told["advice"]["difference"]["low"] > 0
    assert client.get("/v1/alarms", headers=keys["other"]).json() == {
        "alarms": [],
        "advice": None,
        "drafts_missing": 10_000,
    }
    assert client.get("/v1/alarms", headers=keys["write"]).status_code == 403
    assert client.get("/v1/alarms").status_code == 401


def test_prometheus_sees_what_is_open(risen):
    _, client, keys = risen
    text = client.get("/metrics", headers=keys["read"]).text
    assert 'evenhand_alarms_open{category="",scope="all",signal="takeover",tenant="default"} 1.0' in text
    assert "evenhand_rollback_advised 1.0" in text
    assert "evenhand_lookout_failing 0.0" in text


def test_alarms_of_all_drafts_and_of_those_without_a_category_are_counted_apart(tmp_path):
    database = open_database(str(tmp_path / "events.db"))
    service = make_service(database)
    for category, what in ((None, "opened"), (None, "closed"), (NONE, "opened"), ("all", "opened")):
        notice = Notice(what, "takeover", category, Tally(800, 10_000), Tally(144, 1_200), 11.0, 10.6)
        service.store.record(TOPIC, {"tenant": "default", **notice.json()}, 0)
    families = {family.name: family for family in TenantCollector(service, "default").collect()}
    for name, counts in (("evenhand_alarms", (1, 1, 1)), ("evenhand_alarms_open", (0, 1, 1))):
        found = {(one.labels["scope"], one.labels["category"]): one.value for one in families[name].samples}
        assert found == dict(zip((("all", ""), ("category", ""), ("category", "all")), counts)), name
    database.close()


def test_the_dashboard_asks_only_for_what_there_is(risen):
    """Every metric and label in every query of the Grafana file is in what Prometheus would scrape, and every metric is used."""
    _, client, keys = risen
    scraped: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(client.get("/metrics", headers=keys["read"]).text):
        for sample in family.samples:
            scraped.setdefault(sample.name, set()).update(sample.labels)
    board = json.loads(CliRunner().invoke(command, ["monitor", "grafana"]).stdout)
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked = {name for query in queries for name in re.findall(r"evenhand_\w+", query)}
    assert asked <= set(scraped)
    assert {name for name in scraped if not name.endswith(("_created", "_count", "_sum"))} <= asked
    for query in queries:
        labels = set(re.findall(r"(\w+)=\"", query)) | {
            label for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(", ")
        }
        assert labels <= set().union(*(scraped[name] for name in re.findall(r"evenhand_\w+", query))), query
    places = [tuple(panel["gridPos"].values()) for panel in board["panels"]]
    assert len(set(places)) == len({panel["id"] for panel in board["panels"]}) == len(places)


def test_the_command_lists_alarms_and_what_to_do(risen):
    folder, *_ = risen
    words = ["monitor", "--folder", str(folder), "alarms", "--registry", str(folder / "registry")]
    done = CliRunner().invoke(command, words)
    assert done.exit_code == 1
    assert "takeover in all drafts" in done.stdout
    assert "roll back to harbor-1" in done.stdout
    assert json.loads(CliRunner().invoke(command, [*words, "--json"]).stdout)["advice"]["fallback"] == "harbor-1"


def test_the_printed_policy_is_one(tmp_path):
    done = CliRunner().invoke(command, ["monitor", "--folder", str(tmp_path), "policy"])
    (tmp_path / "policy.yaml").write_text(done.stdout)
    from evenhand.service.policy import read_policy

    assert read_policy(tmp_path / "policy.yaml") == Policy()
    assert 'rollback: "advise"  # advise: a person decides' in done.stdout


def test_a_running_service_opens_alarms_and_rolls_back_where_its_policy_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("evenhand.service.lookout._LOOK_SECONDS", 0.05)
    rng, database = np.random.default_rng(1), open_database(str(tmp_path / "events.db"))
    production = Production(str(registry_of(tmp_path, "harbor-1", "harbor-2", when=LATER)))
    service = make_service(database, policy=Policy(rollback="automatic"), shipped=production)
    for day in range(1, 21):
        pour(service.store, batches(rng, 600), f"2026-11-{day:02d}", "harbor-1", "default")
    headers = {"Authorization": f"Bearer {make_key(database, 'default', 'read', 0)}"}
    service.keyring.read()
    with TestClient(protected(make_app(service)), base_url="http://127.0.0.1") as client:
        until, day = time.monotonic() + 60, 0
        while production.read().incumbent != "harbor-1" and time.monotonic() < until:
            pour_side_by_side(service.store, rng, WORSE, f"2026-11-{21 + day % 10:02d}", "default")
            time.sleep(0.1)
            day += 1
        assert client.get("/v1/alarms", headers=headers).json()["alarms"]
    last = read_log(production.registry)[-1].content
    assert (last["action"], last["name"], last["who"]) == ("rollback", "harbor-1", "evenhand monitor, by its policy")
    assert service.lookout.failing is None
    database.close()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--registry", "nowhere"], "nowhere holds no registry"),
        (["--registry", "s3://bucket"], "is not a folder"),
        (["--model", "nowhere"], "nowhere has no manifest.json"),
        (["--model", "nowhere", "--registry", "nowhere"], "give --registry or --model"),
        (["--policy", "automatic.yaml"], "needs --registry"),
        (["--policy", "absent.yaml"], "absent.yaml: No such file"),
    ],
)
def test_what_cannot_be_served_is_said_before_any_key_is_made(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "automatic.yaml").write_text("rollback: automatic\n")
    with pytest.raises(UserError, match=said):
        CliRunner().invoke(command, ["monitor", "--folder", "m", *words], catch_exceptions=False)
    assert not (tmp_path / "m").exists()


def test_a_person_with_an_admin_key_rolls_back_once(risen):
    folder, client, keys = risen
    wish = {"instead_of": "harbor-2", "who": "ann", "why": "takeovers"}
    for role, status in (("write", 403), ("read", 403)):
        assert client.post("/v1/rollback", headers=keys[role], json=wish).status_code == status
    assert client.post("/v1/rollback", headers=keys["admin"], json=wish | {"more": 1}).status_code == 422
    assert client.post("/v1/rollback", headers=keys["admin"], json=wish | {"instead_of": "x"}).status_code == 409
    assert state_of(read_log(Registry(str(folder / "registry")))).incumbent == "harbor-2"
    done = client.post("/v1/rollback", headers=keys["admin"], json=wish)
    assert (done.status_code, done.json()["name"], done.json()["who"]) == (200, "harbor-1", "ann")
    assert client.post("/v1/rollback", headers=keys["admin"], json=wish).status_code == 409
    assert client.get("/v1/alarms", headers=keys["read"]).json()["advice"] is None


def test_the_service_needs_no_torch():
    code = "import sys, evenhand.service.serve; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
