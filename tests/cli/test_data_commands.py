"""The data room's commands as a person uses them: page, strictness, rules, snapshots that verify, conversion, kills."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from evenhand.data.harbor import write_harbor


def evenhand(*arguments, **more):
    code = "from evenhand.cli.main import run; run()"
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, **more)
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture(scope="module")
def harbor_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("harbor")
    write_harbor(folder, 5, judgments=600)
    return folder / "judgments.jsonl"


def test_audit_writes_its_page_and_says_no_when_strict(tmp_path, harbor_file):
    page = tmp_path / "page" / "audit.html"
    done = evenhand("audit", harbor_file, "--report", page, "--strict", "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 1
    assert "annotator_at_odds" in {finding["id"] for finding in told["findings"]}
    assert page.read_text().startswith("<!doctype html>")
    assert json.loads(page.with_suffix(".json").read_text()) == told
    assert evenhand("audit", harbor_file, "-q").returncode == 0


def test_leak_and_a_limit_without_tokenizer(tmp_path, harbor_file):
    some = tmp_path / "held_out.jsonl"
    some.write_text("".join(harbor_file.read_text().splitlines(keepends=True)[:60]))
    told = json.loads(evenhand("audit", harbor_file, "--held-out", some, "--json", "-q").stdout)
    leak = next(finding for finding in told["findings"] if finding["id"] == "leak")
    assert leak["count"] >= 50
    done = evenhand("audit", harbor_file, "--max-tokens", 100)
    assert (done.returncode, done.stderr) == (
        2, "error: --max-tokens needs a tokenizer to count with; add --tokenizer MODEL.\n"
    )  # fmt: skip


def test_curate_verify_convert(tmp_path, harbor_file):
    rules = tmp_path / "rules.yaml"
    rules.write_text("rules: [tie, exact_duplicate, {annotator_cap: {most: 90}}, majority, contradiction]\n")
    folder = tmp_path / "set"
    done = evenhand("curate", harbor_file, "--out", folder, "--rules", rules, "--licence", "CC0-1.0", "--json")
    dataset = json.loads(done.stdout)
    assert dataset["rules"]["annotator_cap"] == 90
    assert dataset["counts"]["dropped"]["annotator_cap"] > 0
    sound = evenhand("verify", folder, "--json")
    assert (sound.returncode, json.loads(sound.stdout)["hash"]) == (0, dataset["hash"])
    assert evenhand("convert", folder, "--to", "openai", "--out", tmp_path / "openai").returncode == 0
    (folder / "ledger.jsonl").write_text("")
    broken = evenhand("verify", folder)
    assert (broken.returncode, broken.stdout.count("ledger.jsonl")) == (1, 1)
    nothing = evenhand("verify", tmp_path)
    assert (nothing.returncode, nothing.stderr.count("\n")) == (2, 1)


def test_ray_gives_the_same_hash(tmp_path, harbor_file):
    pytest.importorskip("ray")
    one = json.loads(evenhand("curate", harbor_file, "--out", tmp_path / "one", "--json").stdout)
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    done = evenhand("curate", harbor_file, "--out", tmp_path / "two", "--ray", "--json", env=environment)
    assert json.loads(done.stdout)["hash"] == one["hash"]


def test_killed_midway_and_started_again_gives_the_same_hash(tmp_path, harbor_file):
    whole = json.loads(evenhand("curate", harbor_file, "--out", tmp_path / "whole", "--json").stdout)
    folder = tmp_path / "set"
    code = "from evenhand.cli.main import run; run()"
    for seconds in (0.8, 1.6):
        process = subprocess.Popen(
            [sys.executable, "-c", code, "curate", str(harbor_file), "--out", str(folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not folder.exists() or (folder / "dataset.json").exists()
    again = json.loads(evenhand("curate", harbor_file, "--out", folder, "--json").stdout)
    assert again["hash"] == whole["hash"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "whole"]
    assert evenhand("verify", folder).returncode == 0
