"""The benchmarks run end to end on a tiny random model, so that the figures they print can be made again."""

import json
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "benchmarks"
LENGTHS = {"dialogue": [[30, 6, 9], [25, 4, 7], [12, 5, 5], [40, 8, 3]], "chat": []}


def start(script: str, *options: str) -> str:
    command = [sys.executable, str(FOLDER / script), *options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_contenders_agree_and_finished_turns_are_not_run_again(tmp_path):
    (tmp_path / "lengths.json").write_text(json.dumps(LENGTHS))
    out = tmp_path / "peers.json"
    options = ["--model", "tiny", "--work", "dialogue", "--pairs", "2", "--rounds", "1", "--dtypes", "float32"]
    options += ["--micro-batches", "1", "--data", str(tmp_path), "--out", str(out)]
    printed = start("peers.py", *options)
    turns = json.loads(out.read_text())["turns"]
    ran = {turn["name"]: turn for turn in turns if "loss" in turn}
    assert {"TRL", "without sharing", "evenhand"} <= set(ran)
    assert max(t["loss"] for t in ran.values()) - min(t["loss"] for t in ran.values()) < 1e-5
    assert all("error" in turn for turn in turns if turn["name"] not in ran)
    assert "within 1e-05" in printed
    assert start("peers.py", *options) == printed
    assert json.loads(out.read_text())["turns"] == turns


def test_scaling_prints_ratios_to_the_first_size():
    printed = start("scaling.py", "--steps", "2", "--pairs", "8", "16", "--budgets", "512")
    assert [line.split("|")[1].strip() for line in printed.splitlines() if "1.000" in line] == ["8", "512"]
