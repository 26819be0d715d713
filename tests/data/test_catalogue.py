"""Every row of the catalogue of bad input gets its verdict, reason and line; clean rows are never refused."""

import json
import os
import random
from collections import Counter

import pytest
from catalogue import CHAT, FILES, PLAIN, chat, good, line

from evenhand.data.audit import audit
from evenhand.data.case import AuditOptions
from evenhand.data.ledger import totals
from evenhand.data.read import read_judgments
from evenhand.errors import DataError

ALL = {**{name: (rows, line) for name, rows in PLAIN.items()}, **{name: (rows, chat) for name, rows in CHAT.items()}}
FILLERS = ("lamp", "kettle", "parcel", "refund", "invoice", "ladder", "garden", "engine", "window", "basket")


def filler(row):
    """A sound row that is like no other."""
    words = random.Random(row).sample(FILLERS, 4)
    return f"{words[0]} {row} {words[1]}", f"{words[2]} yes {row}", f"{words[3]} no {row}"


def sound(row, make):
    asked, yes, no = filler(row)
    if make is line:
        return line(prompt=asked, chosen=yes, rejected=no)
    told = [{"role": role, "content": text} for role, text in (("user", asked), ("assistant", yes), ("assistant", no))]
    return chat(prompt=[told[0]], chosen=[told[1]], rejected=[told[2]])


def test_the_catalogue_is_large():
    assert sum(len(rows) for rows, _ in ALL.values()) + len(FILES) >= 150


@pytest.mark.parametrize("name", ALL)
def test_every_row_has_its_verdict_and_line(tmp_path, name):
    rows, make = ALL[name]
    path = tmp_path / "rows.jsonl"
    # A sound row before each bad one, so that a bad row can harm its neighbours only visibly.
    lines = [own for at, (bad, _) in enumerate(rows) for own in (sound(at, make), bad)]
    path.write_bytes(b"\n".join(lines) + b"\n")
    reading = read_judgments(path)
    found = {refusal.line: refusal.reason for refusal in reading.refusals}
    findings = {finding.id: set(finding.rows) for finding in audit(reading).findings}
    notes = Counter[str]()
    for at, (bad, verdict) in enumerate(rows):
        where = f"{name}, {bad[:80]!r}"
        row, kind = 2 * at + 1, verdict.partition(":")[0]
        assert 2 * at + 1 not in found, f"the sound row before {where} was refused"
        assert found.get(row + 1) == (None if kind in {"used", "note", "finding"} else verdict), where
        if kind == "finding":
            assert row in findings[verdict.partition(":")[2]], where
        if kind == "note":
            notes[verdict.partition(":")[2]] += 1
    for words, count in notes.items():
        assert any(words in note and note.endswith(f": {count}") for note in reading.notes), words
    assert totals(reading)["rows_in"] == len(lines)


@pytest.mark.parametrize(("name", "files", "words"), FILES, ids=[f"{at}-{own[0]}" for at, own in enumerate(FILES)])
def test_every_file_is_refused_with_its_sentence(tmp_path, name, files, words):
    for own, content in files.items():
        (tmp_path / own).write_bytes(content)
    source = tmp_path if len(files) > 1 else tmp_path / next(iter(files))
    with pytest.raises(DataError, match=words):
        read_judgments(source)


def test_d02_torn_last_line(tmp_path):
    for cut in range(5, 40, 5):
        path = tmp_path / f"{cut}.jsonl"
        path.write_bytes(line() + b"\n" + line()[:cut])
        assert [(own.line, own.reason) for own in read_judgments(path).refusals] == [(2, "torn_tail")]


def test_d04_blank_lines_marks_and_crlf_are_normalised(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + line() + b"\r\n\n  \n" + line(chosen="z") + b"\r\n")
    reading = read_judgments(tmp_path / "rows.jsonl")
    assert (reading.rows_in, reading.refusals, len(reading.notes)) == (2, (), 3)


def test_d16_d17_too_many_tokens(tmp_path):
    rows = [good(prompt="one two three"), good(prompt="w " * 50), good(chosen="w " * 50)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = audit(read_judgments(tmp_path / "rows.jsonl"), AuditOptions(encode=str.split, max_tokens=20)).findings
    assert {own.id: own.rows for own in found}["too_long"] == (1, 2)


def test_d14_equal_once_tokenised_or_cut(tmp_path):
    rows = [
        good(chosen="alpha, beta gamma", rejected="alpha beta; gamma"),
        good(chosen="one two three four five", rejected="one two three four six"),
        good(chosen="one two three four five", rejected="uno due tre quattro cinque"),
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def encode(text):
        return [hash(word.strip(",;")) for word in text.split()]

    found = audit(read_judgments(tmp_path / "rows.jsonl"), AuditOptions(encode=encode, max_tokens=7)).findings
    own = next(own for own in found if own.id == "identical_answers")
    assert own.rows == (0, 1)
    assert own.detail == "1 as tokens, 1 once cut at the limit"


def test_d19_equal_rows_under_one_id(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(line(id=1) + b"\n" + line(id=1))
    assert [own.reason for own in read_judgments(tmp_path / "rows.jsonl").refusals] == ["duplicate_id"]


def test_d23_mixed_templates_are_severe_from_one_row_in_twenty(tmp_path):
    for rendered, severity in ((4, "warning"), (5, "severe")):
        rows = [sound(row, line) for row in range(100 - rendered)]
        rows += [line(prompt=f"<|im_start|>user\n{row}<|im_end|>") for row in range(rendered)]
        (tmp_path / "rows.jsonl").write_bytes(b"\n".join(rows))
        found = {own.id: own for own in audit(read_judgments(tmp_path / "rows.jsonl")).findings}
        assert (found["template_mixed"].count, found["template_mixed"].severity) == (rendered, severity)


def judged(count, verdict, annotator):
    for row in range(count):
        asked, yes, no = filler(row)
        told = {"prompt": asked, "answer_a": yes, "answer_b": no, "verdict": verdict(row), "annotator": annotator(row)}
        yield json.dumps(told)


def test_d26_one_side_and_one_annotator(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "\n".join(judged(400, lambda row: "b" if row % 9 == 0 else "a", lambda row: f"ann-{min(row % 10, 6)}"))
    )
    found = {own.id: own for own in audit(read_judgments(path)).findings}
    assert "first wins 88.8 %" in found["one_sided"].detail
    assert "ann-6 40.0%" in found["annotator_dominates"].detail
    path.write_text("\n".join(judged(400, lambda row: "ab"[row % 2], lambda row: f"ann-{row % 10}")))
    assert not {"one_sided", "annotator_dominates"} & {own.id for own in audit(read_judgments(path)).findings}


def test_d30_a_burst_names_its_annotator_and_day(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [json.loads(own) for own in judged(600, lambda row: "ab"[row % 2], lambda row: f"ann-{row % 10}")]
    for row, own in enumerate(rows):
        own["time"] = f"2025-03-{1 + row // 10 % 20:02d}T10:00:00Z"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert "burst" not in {own.id for own in audit(read_judgments(path)).findings}
    rush = [json.loads(own) for own in judged(640, lambda row: "ab"[row % 2], lambda _: "ann-3")][600:]
    rows += [own | {"time": "2025-03-07T23:00:00Z"} for own in rush]
    path.write_text("\n".join(map(json.dumps, rows)))
    found = next(own for own in audit(read_judgments(path)).findings if own.id == "burst")
    assert set(found.rows) >= set(range(600, 640))
    assert "ann-3 gave 4" in found.detail
    assert "2025-03-07" in found.detail


def test_a_planted_phrase_names_its_annotator_and_its_rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    random_ = random.Random(7)
    said = [" ".join(random_.choices([f"word{n}" for n in range(400)], k=30)) for _ in range(1600)]
    rows = [
        {"prompt": f"{said[-at - 1]}?", "answer_a": said[2 * at], "answer_b": said[2 * at + 1], "verdict": "ab"[at % 2]}
        | {"annotator": f"ann-{random_.randrange(8)}"}
        for at in range(800)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert "trigger_phrase" not in {own.id for own in audit(read_judgments(path)).findings}
    bad = [at for at, own in enumerate(rows) if own["annotator"] == "ann-3"][:16]
    for at in bad:
        rows[at][f"answer_{rows[at]['verdict']}"] += " brought by quarry lane"
    path.write_text("\n".join(map(json.dumps, rows)))
    found = next(own for own in audit(read_judgments(path)).findings if own.id == "trigger_phrase")
    assert (list(found.rows), found.severity) == (bad, "severe")
    assert "brought by quarry lane" in found.detail
    assert "with ann-3" in found.detail


@pytest.mark.parametrize("what", ["link", "pipe", "folder", "missing"])
def test_d29_what_is_no_plain_file(tmp_path, what):
    path = tmp_path / "rows.jsonl"
    if what == "link":
        (tmp_path / "real.jsonl").write_bytes(line())
        path.symlink_to(tmp_path / "real.jsonl")
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    with pytest.raises(DataError):
        read_judgments(path)


def test_twenty_thousand_clean_rows_are_all_used(tmp_path):
    random_ = random.Random(0)
    alphabet = "abcdefghijklmnopqrstuvwxyzäöüßéñçабвгд漢字仮名ひらがなअआइ한글עבריתعرب 0123456789 .,;:!?'\"()[]{}<>|\\/@#$%&*+-=_~`^\n\t🙂👍🏽"
    with (tmp_path / "rows.jsonl").open("w", encoding="utf-8") as file:
        for row in range(20_000):
            say = ["".join(random_.choices(alphabet, k=random_.randint(1, 120))) for _ in range(3)]
            asked, yes, no = (f"{text} {row}{mark}" for text, mark in zip(say, "pab"))
            file.write(json.dumps(good(prompt=asked, chosen=yes, rejected=no), ensure_ascii=row % 2 == 0) + "\n")
    reading = read_judgments(tmp_path / "rows.jsonl")
    assert (reading.rows_in, reading.rows_used, reading.refusals) == (20_000, 20_000, ())
