"""Every kind of row: recognised by its columns, read as the judgments that it stands for."""

import json
from pathlib import Path
from typing import Any

import pytest

from evenhand.data.kinds import BY_NAME
from evenhand.data.read import describe, read_judgments, read_pairs
from evenhand.data.schema import Message
from evenhand.errors import DataError

USER = {"role": "user", "content": "Where is my parcel?"}
GOOD = {"role": "assistant", "content": "It arrives on Monday."}
BAD = {"role": "assistant", "content": "No idea."}
PROMPT = (Message("user", "Where is my parcel?"),)
LONG = (
    Message("system", "Be kind."),
    Message("user", "Hello"),
    Message("assistant", "Hi!"),
    Message("user", "Where is my parcel?"),
)
LONG_TURNS = [turn.json() for turn in LONG]
LONG_SHARE = [
    {"from": who, "value": turn.content} for who, turn in zip(["system", "human", "gpt", "human"], LONG, strict=True)
]
HH = "\n\nHuman: Hello\n\nAssistant: Hi!\n\nHuman: Where is my parcel?\n\nAssistant: "

COMPLETIONS = [{"response": "x", "overall_score": 1}, {"response": "y", "overall_score": 2}]

# name of the kind, row, prompt that it must give
DECIDED: list[tuple[str, dict[str, Any], tuple[Message, ...]]] = [
    ("pairwise", {"prompt": USER["content"], "chosen": GOOD["content"], "rejected": BAD["content"]}, PROMPT),
    (
        "pairwise",
        {"prompt": USER["content"], "chosen": GOOD["content"], "rejected": BAD["content"], "system": "Be kind."},
        (Message("system", "Be kind."), *PROMPT),
    ),
    ("question", {"question": USER["content"], "chosen": GOOD["content"], "rejected": BAD["content"]}, PROMPT),
    ("pairwise_messages", {"prompt": LONG_TURNS, "chosen": [GOOD], "rejected": [BAD]}, LONG),
    ("pairwise_messages", {"prompt": LONG_TURNS, "chosen": GOOD["content"], "rejected": BAD["content"]}, LONG),
    ("pairwise_messages", {"prompt": USER["content"], "chosen": [USER, GOOD], "rejected": [USER, BAD]}, PROMPT),
    ("pairwise_messages", {"prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]}, PROMPT),
    ("implicit_prompt", {"chosen": [*LONG_TURNS, GOOD], "rejected": [*LONG_TURNS, BAD]}, LONG),
    ("messages", {"messages": LONG_TURNS, "chosen": GOOD, "rejected": BAD}, LONG),
    (
        "sharegpt",
        {
            "conversations": LONG_SHARE,
            "chosen": {"from": "gpt", "value": GOOD["content"]},
            "rejected": {"from": "gpt", "value": BAD["content"]},
        },
        LONG,
    ),
    (
        "instruction",
        {"instruction": "Where is", "input": "my parcel?", "output": [GOOD["content"], BAD["content"]]},
        (Message("user", "Where is\nmy parcel?"),),
    ),
    (
        "instruction",
        {
            "instruction": "Where is my parcel?",
            "input": "",
            "output": [GOOD["content"], BAD["content"]],
            "system": "Be kind.",
            "history": [["Hello", "Hi!"]],
        },
        LONG,
    ),
    (
        "instruction_pairwise",
        {"instruction": USER["content"], "input": "", "chosen": GOOD["content"], "rejected": BAD["content"]},
        PROMPT,
    ),
    (
        "ultrafeedback",
        {
            "prompt": USER["content"],
            "prompt_id": "6d1",
            "chosen": [USER, GOOD],
            "rejected": [USER, BAD],
            "messages": [USER, GOOD],
            "score_chosen": 8.5,
            "score_rejected": 4,
        },
        PROMPT,
    ),
    ("hh_rlhf", {"chosen": HH + GOOD["content"], "rejected": HH + BAD["content"]}, LONG[1:]),
    (
        "openai",
        {
            "input": {"messages": LONG_TURNS, "tools": [], "parallel_tool_calls": True},
            "preferred_output": [GOOD],
            "non_preferred_output": [BAD],
        },
        LONG,
    ),
    ("ms_swift", {"messages": [*LONG_TURNS, GOOD], "rejected_response": BAD["content"]}, LONG),
]


OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("judgments", {"prompt": [USER], "answer_a": [GOOD], "answer_b": BAD, "verdict": "a"}),
    ("pandalm", {"instruction": "p", "input": "", "response1": "x", "response2": "y", "annotator1": 1}),
    ("llmbar", {"input": "p", "output_1": "x", "output_2": "y", "label": 2}),
    ("scored", {"prompt": "p", "responses": ["x", "y"], "scores": [1, 2]}),
    ("ranking", {"prompt": [USER], "responses": [[GOOD], BAD], "ranking": [1, 2]}),
    ("ultrafeedback_raw", {"instruction": "p", "completions": COMPLETIONS}),
    (
        "qa_feedback",
        {"question": "q", "passages": [["t", "s"]], "prediction 1": "x", "prediction 2": "y", "preference": [1]},
    ),
]


def write_lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(("kind", "row", "prompt"), DECIDED, ids=[f"{i}-{d[0]}" for i, d in enumerate(DECIDED)])
def test_decided_row_gives_its_pair(
    tmp_path: Path, kind: str, row: dict[str, Any], prompt: tuple[Message, ...]
) -> None:
    reading, pairs = read_pairs(write_lines(tmp_path / "rows.jsonl", row))
    assert (reading.kind, reading.rows_in, reading.rows_used, reading.refusals) == (kind, 1, 1, ())
    (judgment,) = reading.judgments
    assert (judgment.prompt, judgment.answer_a, judgment.answer_b) == (prompt, GOOD["content"], BAD["content"])
    assert (judgment.verdict, judgment.shown_first, judgment.row, judgment.group) == ("a", None, 0, "0")
    (pair,) = pairs
    assert (pair.prompt, pair.chosen, pair.rejected, pair.id) == (prompt, GOOD["content"], BAD["content"], judgment.id)


def test_every_kind_has_a_fixture() -> None:
    assert {kind for kind, *_ in (*DECIDED, *OTHERS)} == BY_NAME.keys()


def test_judgments_keep_who_when_and_which_was_shown_first(tmp_path: Path) -> None:
    row = {
        "prompt": "p",
        "answer_a": "first",
        "answer_b": "second",
        "verdict": "b",
        "id": 17,
        "annotator": "ann",
        "shown_first": "B",
        "time": "2024-01-05",
        "category": "billing",
        "family": "f3",
        "group": 4,
    }
    tie = {**row, "id": "t", "verdict": "tie", "shown_first": None, "time": None}
    path = write_lines(tmp_path / "rows.jsonl", row, tie)
    reading = read_judgments(path)
    judgment, tied = reading.judgments
    assert (reading.kind, judgment.id, judgment.annotator, judgment.shown_first) == ("judgments", "17", "ann", "b")
    assert (judgment.time, judgment.category, judgment.family, judgment.group) == ("2024-01-05", "billing", "f3", "4")
    assert (judgment.answer_a, judgment.answer_b, judgment.verdict) == ("first", "second", "b")
    assert (tied.verdict, tied.shown_first, tied.time) == ("tie", None, None)
    with pytest.raises(DataError, match="none of 2 judgments leaves a winner"):
        read_pairs(path)


@pytest.mark.parametrize(
    ("word", "verdict"),
    [("a", "a"), ("B", "b"), ("Tie", "tie"), ("a-is-slightly-better", "a"), ("b-is-better", "b")],
)
def test_verdict_words(tmp_path: Path, word: str, verdict: str) -> None:
    row = {"prompt": "p", "answer_a": "x", "answer_b": "y", "verdict": word}
    assert read_judgments(write_lines(tmp_path / "r.jsonl", row)).judgments[0].verdict == verdict


def test_pandalm_row_has_a_judgment_for_each_annotator(tmp_path: Path) -> None:
    row = {"idx": 5, "motivation_app": "Gmail", "instruction": "Shorten.", "input": "It is so.", "response1": "So."}
    row |= {"response2": "It is.", "annotator1": 1, "annotator2": 2, "annotator3": 0}
    reading = read_judgments(write_lines(tmp_path / "r.jsonl", row))
    assert [(j.id, j.annotator, j.verdict) for j in reading.judgments] == [
        ("5#0", "annotator1", "a"),
        ("5#1", "annotator2", "b"),
        ("5#2", "annotator3", "tie"),
    ]
    assert {(j.group, j.category, j.prompt) for j in reading.judgments} == {
        ("0", "Gmail", (Message("user", "Shorten.\nIt is so."),))
    }
    assert describe(reading) == "read 1 row as pairwise with 3 annotators (pandalm)"


def test_labelled_row_names_the_better_output(tmp_path: Path) -> None:
    row = {"input": "p", "output_1": "x", "output_2": "y", "label": 2, "part": "Natural"}
    (judgment,) = read_judgments(write_lines(tmp_path / "r.jsonl", row)).judgments
    assert (judgment.verdict, judgment.category, judgment.annotator) == ("b", "Natural", None)


RANKED = [
    ({"scores": [3, 1.5, 3]}, ["a", "tie", "b"]),
    ({"ranking": [1, 2, 1]}, ["a", "tie", "b"]),
    ({"ranking": [3, 1, 2]}, ["b", "b", "a"]),
]


@pytest.mark.parametrize(("merit", "verdicts"), RANKED)
def test_ranked_answers_meet_in_every_pair(tmp_path: Path, merit: dict[str, Any], verdicts: list[str]) -> None:
    row = {"id": "q", "prompt": "p", "responses": ["x", "y", "z"], **merit}
    other = {"id": "r", "group": "g", "prompt": "p", "responses": ["x", "y"], **{k: v[:2] for k, v in merit.items()}}
    reading = read_judgments(write_lines(tmp_path / "r.jsonl", row, other))
    first = [j for j in reading.judgments if j.row == 0]
    assert [(j.answer_a, j.answer_b) for j in first] == [("x", "y"), ("x", "z"), ("y", "z")]
    assert [j.verdict for j in first] == verdicts
    assert [j.id for j in reading.judgments] == ["q#0", "q#1", "q#2", "r"]
    assert [j.group for j in reading.judgments] == ["0", "0", "0", "g"]
    place = "rows whose `ranking` was read as each answer's place, the lowest best: 2"
    assert reading.notes == ((place,) if "ranking" in merit else ())


def test_raw_ultrafeedback_is_ranked_by_overall_score(tmp_path: Path) -> None:
    completions = [{"response": r, "overall_score": s, "model": r} for r, s in [("x", 7.5), ("y", 9), ("z", None)]]
    reading = read_judgments(write_lines(tmp_path / "r.jsonl", {"instruction": "p", "completions": completions}))
    assert reading.kind == "ultrafeedback_raw"
    assert [(j.answer_a, j.answer_b, j.verdict) for j in reading.judgments] == [("x", "y", "b")]
    assert reading.notes == ("judgments of used rows left out as null_value: 2",)


def test_passages_have_six_verdicts_in_pair_order(tmp_path: Path) -> None:
    row = {
        "question": "When?",
        "passages": [["Bloom", "Bloom\n\nAn album.", "Of 2018."], ["Bloom", "It was released."]],
        **{f"prediction {i}": f"answer {i}" for i in (1, 2, 3, 4)},
        "preference": [0, 1, 2, 1, 2, 0],
    }
    reading = read_judgments(write_lines(tmp_path / "r.jsonl", row))
    assert reading.judgments[0].prompt[0].content == (
        "Bloom\n\nAn album. Of 2018.\n\nBloom\n\nIt was released.\n\nQuestion: When?"
    )
    assert [(j.answer_a[-1], j.answer_b[-1], j.verdict) for j in reading.judgments] == [
        ("1", "2", "tie"),
        ("1", "3", "a"),
        ("1", "4", "b"),
        ("2", "3", "a"),
        ("2", "4", "b"),
        ("3", "4", "tie"),
    ]


SYSTEM = Message("system", "Be kind.")


@pytest.mark.parametrize("kind", BY_NAME)
def test_system_column_becomes_the_first_turn_of_every_kind(tmp_path: Path, kind: str) -> None:
    row = next(row for name, row, *_ in (*DECIDED, *OTHERS) if name == kind)
    plain = read_judgments(write_lines(tmp_path / "plain.jsonl", {**row, "system": None}))
    given = read_judgments(write_lines(tmp_path / "given.jsonl", {**row, "system": "Be kind."}))
    assert plain.kind == given.kind == kind
    for before, after in zip(plain.judgments, given.judgments, strict=True):
        said = before.prompt[1:] if before.prompt[0] == SYSTEM else before.prompt
        assert after.prompt == (SYSTEM, *said)


def test_one_bad_answer_of_a_ranked_row_costs_only_its_own_contests(tmp_path: Path) -> None:
    row = {"id": "q", "prompt": "p", "responses": ["x", "x", "y", True], "scores": [1, 2, 3, 4]}
    reading = read_judgments(write_lines(tmp_path / "r.jsonl", row))
    assert [j.id for j in reading.judgments] == ["q#1", "q#3"]
    assert reading.notes == (
        "judgments of used rows left out as identical_answers: 1",
        "judgments of used rows left out as wrong_type: 3",
    )


def test_kind_can_be_forced(tmp_path: Path) -> None:
    row = {"prompt": "p", "chosen": HH + "x", "rejected": HH + "y"}
    path = write_lines(tmp_path / "r.jsonl", row)
    assert read_judgments(path).kind == "pairwise"
    forced = read_judgments(path, kind="hh_rlhf")
    assert (forced.kind, forced.judgments[0].prompt, forced.judgments[0].answer_a) == ("hh_rlhf", LONG[1:], "x")


def test_unknown_forced_kind_names_its_neighbour(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "r.jsonl", DECIDED[0][1])
    with pytest.raises(DataError, match="did you mean sharegpt"):
        read_judgments(path, kind="share_gpt")


def test_unknown_columns_are_named_with_the_nearest_kind(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "r.jsonl", {"prompt": "p", "chosen": "x", "refused": "y"})
    with pytest.raises(DataError, match=r"\(prompt, chosen, refused\).*pairwise needs prompt, chosen, rejected"):
        read_judgments(path)


def test_kind_of_most_rows_is_taken_and_the_others_are_refused(tmp_path: Path) -> None:
    plain = {"prompt": "p", "chosen": "x", "rejected": "y"}
    rows = [{**plain, "chosen": ["x"]}, plain, {**plain, "chosen": "z"}]
    reading = read_judgments(write_lines(tmp_path / "r.jsonl", *rows))
    assert (reading.kind, reading.rows_used, reading.refused) == ("pairwise", 2, {"wrong_type": 1})


def test_scores_that_contradict_the_columns_are_noted(tmp_path: Path) -> None:
    row = {"prompt": "p", "chosen": "x", "rejected": "y", "score_chosen": 1, "score_rejected": 2}
    equal = {**row, "chosen": "z", "score_chosen": 2}
    reading = read_judgments(write_lines(tmp_path / "r.jsonl", row, equal))
    assert reading.rows_used == 2
    assert reading.notes == (
        "rows that give both answers the same score (chosen_scored_equal), kept: 1",
        "rows that give the chosen answer the lower score (chosen_scored_lower), kept: 1",
    )
