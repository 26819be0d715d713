"""Teach a small model to judge by a constitution: comparisons as demonstrations, and the rest of the data without verdicts.

    python examples/methods/judge_data.py harbor-demo/data examples/methods/constitution.yaml judge

Of the training side of curated data, 300 pairs that people judged become `judge/train.jsonl`, each by one principle and in both
orders; the others become `judge/unlabelled.jsonl` without their verdict, to be judged by the model. `judge/people.jsonl` is
the held-out side, on which the judge is measured.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evenhand.data.snapshot import read_snapshot
from evenhand.evaluation.judge import Question, comparison
from evenhand.online.constitution import Constitution, drawn, read_constitution

LABELLED = 300


def demonstrations(question: Question, constitution: Constitution) -> list[dict[str, Any]]:
    """Both orders of a comparison whose answer a is the better one."""
    prefer = drawn(constitution.principles, question.id).prefer
    orders = (("A", (question.answer_a, question.answer_b)), ("B", (question.answer_b, question.answer_a)))
    return [
        {"prompt": [turn.json() for turn in comparison(question.prompt, replies, prefer)], "response": letter}
        for letter, replies in orders
    ]


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def main(data: Path, constitution_file: Path, out: Path) -> None:
    """Write the three files."""
    snapshot, constitution = read_snapshot(data), read_constitution(constitution_file)
    out.mkdir(parents=True, exist_ok=True)
    known, rest = snapshot.train[:LABELLED], snapshot.train[LABELLED:]
    write(out / "train.jsonl", (row for pair in known for row in demonstrations(Question.of(pair), constitution)))
    write(
        out / "unlabelled.jsonl",
        (
            {"prompt": [turn.json() for turn in pair.prompt], "answer_a": a, "answer_b": b}
            for pair in rest
            for a, b in [sorted((pair.chosen, pair.rejected))]
        ),
    )
    write(out / "people.jsonl", (pair.json() for pair in snapshot.validation))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
