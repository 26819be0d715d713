"""Real human edits and thumbs, from a team's own log through the importer to judgments; skipped where the data is not."""

import json
import os
from pathlib import Path

import pytest
from happenings import START_MS, production

from evenhand.data.ranked import read_passages
from evenhand.data.read import read_judgments
from evenhand.data.votes import answer_kind, read_answers
from evenhand.service.flywheel.collection import Order, collect
from evenhand.service.flywheel.shelf import Shelf
from evenhand.service.importer import Mapping, import_file

DATA = Path(os.environ.get("EVENHAND_DATA", ""))
THUMBS, EDITS = DATA / "thumbs.json", DATA / "qa_feedback_dev.json"
HOUR_MS = 3_600_000
NAMES = ["at=when", "conversation=session", "draft=answer", "prompt=asked", "text=reply", "sent=corrected", "up=liked"]


def imported(lines: list[dict], happens, tmp_path, kinds: list[str]):
    """The lines as a log of a team's own naming, through the importer."""
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    mapping = Mapping.read([*NAMES, "kind=what", "actor=who"], ["model=qa-1"], kinds)
    return import_file(happens.store, "default", log, mapping, START_MS + 10**10, lambda *_: None)


def log_line(at: int, what: str, **fields) -> dict:
    when = f"2026-11-{2 + at // 24:02d}T{at % 24:02d}:00:00Z"
    return {"what": what, "session": f"s{at}", "answer": f"a{at}", "when": when, **fields}


@pytest.mark.skipif(not EDITS.is_file(), reason="qa_feedback_dev.json is not in EVENHAND_DATA")
def test_real_corrections_become_pairs(tmp_path):
    lines = []
    for at, row in enumerate(json.loads(EDITS.read_text())):
        asked = [turn.json() for turn in read_passages(row).prompt]
        first, corrected = row["prediction 1"], row["feedback"].get("corrected-prediction")
        lines.append(log_line(at, "reply", asked=asked, reply=first))
        if corrected and corrected.strip():
            lines.append(log_line(at, "fix", reply=first, corrected=corrected, who=f"annotator-{at % 7}"))
    with production(tmp_path / "m") as happens:
        found = imported(lines, happens, tmp_path, ["draft=reply", "edit=fix"])
        record = collect(happens.store, Order(), Shelf.at(tmp_path / "out"))
    assert (found.lines, found.stored, found.refused) == (987, 987, {})
    assert record["left_out"] == {"identical_answers": 6}
    assert record["rows"]["judgments"] + record["rows"]["held"] == 481
    assert record["rows"]["held"] <= 0.02 * 481
    reading = read_judgments(tmp_path / "out")
    assert reading.rows_used == record["rows"]["judgments"]
    assert not reading.refusals


@pytest.mark.skipif(not THUMBS.is_file(), reason="thumbs.json is not in EVENHAND_DATA")
def test_real_thumbs_become_votes_of_the_same_number(tmp_path):
    lines = []
    for at, row in enumerate(json.loads(THUMBS.read_text())):
        *asked, reply = row["messages"]
        lines.append(log_line(at, "reply", asked=asked, reply=reply["content"]))
        lines.append(log_line(at, "vote", liked=row["label"], who=f"customer-{at}"))
    with production(tmp_path / "m") as happens:
        found = imported(lines, happens, tmp_path, ["draft=reply", "thumb=vote"])
        record = collect(happens.store, Order(), Shelf.at(tmp_path / "out"))
    assert (found.stored, found.refused) == (600, {})
    assert record["rows"] == {"judgments": 1, "thumbs": 300, "held": 0}
    file = Shelf.at(tmp_path / "out").thumbs
    reading, pairs = read_answers(file, answer_kind(file))
    assert not reading.refusals
    assert sum(pair.lacks == "rejected" for pair in pairs) == 150
