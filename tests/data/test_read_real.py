"""Real preference data is read whole, against counts made without evenhand."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from evenhand.data.ledger import totals
from evenhand.data.read import describe, read_judgments, read_pairs
from evenhand.errors import DataError


def rows_of(path: Path) -> list[Any]:
    text = path.read_text("utf-8")
    if path.suffix == ".json":
        found: list[Any] = json.loads(text)
        return found
    return [json.loads(line) for line in text.splitlines()]


def test_chat_pairs_are_all_used(real_data: Path) -> None:
    rows = rows_of(real_data / "chat_pairs.json")
    reading, pairs = read_pairs(real_data / "chat_pairs.json")
    assert (describe(reading), len(pairs)) == ("read 300 rows as pairwise (sharegpt)", 300)
    for row, pair in zip(rows, pairs, strict=True):
        assert [turn.content for turn in pair.prompt] == [turn["value"] for turn in row["conversations"]]
        assert (pair.chosen, pair.rejected) == (row["chosen"]["value"], row["rejected"]["value"])
    assert Counter(t.role for p in pairs for t in p.prompt) == {"user": 563, "assistant": 263, "system": 80}


def test_pandalm_names_its_unusable_rows(real_data: Path) -> None:
    path = real_data / "pandalm_testset.json"
    rows = rows_of(path)
    unusable = {
        index: "wrong_type" if True in answers else "empty"
        for index, row in enumerate(rows)
        if True in (answers := (row["response1"], row["response2"])) or "" in answers
    }
    reading = read_judgments(path)
    assert {refusal.row: refusal.reason for refusal in reading.refusals} == unusable
    assert Counter(unusable.values()) == {"empty": 54, "wrong_type": 6}
    assert describe(reading) == (
        "read 999 rows as pairwise with 3 annotators (pandalm); 60 refused: empty 54, wrong_type 6"
    )
    lines = path.read_text("utf-8").splitlines()
    for refusal in reading.refusals:
        assert refusal.line is not None
        assert f'"idx": {rows[refusal.row]["idx"]},' in lines[refusal.line]
    verdicts = {1: "a", 2: "b", 0: "tie"}
    expected = [
        (index, f"annotator{who}", verdicts[row[f"annotator{who}"]])
        for index, row in enumerate(rows)
        if index not in unusable
        for who in (1, 2, 3)
    ]
    assert [(j.row, j.annotator, j.verdict) for j in reading.judgments] == expected
    assert totals(reading)["rows_used"] == 939


def test_pandalm_pairs_follow_the_majority(real_data: Path) -> None:
    path = real_data / "pandalm_testset.json"
    votes: dict[Any, Counter[Any]] = {}
    for row in rows_of(path):
        first, second = row["response1"], row["response2"]
        if True in (first, second) or "" in (first, second):
            continue
        asked = "\n".join(part for part in (row["instruction"], row["input"]) if part.strip())
        winner = {1: first, 2: second, 0: None}
        votes.setdefault((asked, frozenset((first, second))), Counter()).update(
            winner[row[f"annotator{i}"]] for i in (1, 2, 3)
        )
    expected = Counter()
    for (asked, answers), count in votes.items():
        (winner, most), *rest = count.most_common()
        if winner is not None and not (rest and rest[0][1] == most):
            expected[asked, winner, *(answers - {winner})] += 1
    _, pairs = read_pairs(path)
    assert Counter((p.prompt[0].content, p.chosen, p.rejected) for p in pairs) == expected


def test_tulu_judgments_keep_ties_annotators_and_times(real_data: Path) -> None:
    rows = rows_of(real_data / "tulu_judgments.jsonl")
    reading = read_judgments(real_data / "tulu_judgments.jsonl")
    assert (reading.kind, len(reading.judgments), reading.refusals) == ("judgments", 1150, ())
    assert Counter(j.verdict for j in reading.judgments)["tie"] == 376
    assert [(j.id, j.annotator, j.time) for j in reading.judgments] == [
        (row["id"], row["annotator"], row["time"]) for row in rows
    ]
    assert [j.verdict for j in reading.judgments] == [r["verdict"].split("-")[0] for r in rows]
    assert describe(reading) == "read 1150 rows as pairwise with 16 annotators (judgments)"
    assert "ties between identical answers, kept as judgments: 39" in reading.notes


def test_qa_feedback_has_six_verdicts_an_item(real_data: Path) -> None:
    rows = rows_of(real_data / "qa_feedback_dev.json")
    reading = read_judgments(real_data / "qa_feedback_dev.json")
    assert (reading.kind, reading.rows_used, len(reading.judgments)) == ("qa_feedback", 500, 3000)
    order = [(1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)]
    expected = [
        (row[f"prediction {i}"], row[f"prediction {j}"], {1: "a", 2: "b", 0: "tie"}[verdict], str(index))
        for index, row in enumerate(rows)
        for (i, j), verdict in zip(order, row["preference"], strict=True)
    ]
    assert [(j.answer_a, j.answer_b, j.verdict, j.group) for j in reading.judgments] == expected
    for row, judgment in zip(rows, reading.judgments[::6], strict=True):
        assert judgment.prompt[0].content.endswith(f"\n\nQuestion: {row['question']}")
        assert all(sentence in judgment.prompt[0].content for passage in row["passages"] for sentence in passage)


def test_llmbar_labels_name_the_better_output(real_data: Path) -> None:
    rows = rows_of(real_data / "llmbar.json")
    _, pairs = read_pairs(real_data / "llmbar.json")
    assert [(p.chosen, p.category) for p in pairs] == [(r[f"output_{r['label']}"], r["part"]) for r in rows]


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("thumbs.json", "messages, label"),
        ("gsm8k_test.jsonl", "question, answer"),
        ("toxicity.csv", "text, is_toxic"),
    ],
)
def test_what_holds_no_preferences_is_refused_by_its_columns(real_data: Path, name: str, columns: str) -> None:
    with pytest.raises(DataError, match=rf"{name}: the columns \({columns}\) are no kind of preference row"):
        read_judgments(real_data / name)
