"""Every reason code: the row that earns it is refused with its line, and its neighbours are used."""

import json
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenhand.data.contest import same_but_for_form
from evenhand.data.ledger import totals
from evenhand.data.read import describe, read_judgments
from evenhand.data.reasons import REASONS
from evenhand.data.schema import Refusal
from evenhand.errors import DataError

GOOD = {"prompt": "p", "chosen": "x", "rejected": "y"}
USER, ANSWER = {"role": "user", "content": "p"}, {"role": "assistant", "content": "x"}
OTHER = {"role": "assistant", "content": "y"}
CHAT = {"prompt": [USER], "chosen": [ANSWER], "rejected": [OTHER]}
JUDGED = {"prompt": "p", "answer_a": "x", "answer_b": "y", "verdict": "a"}
RANKED = {"prompt": "p", "responses": ["x", "y"], "scores": [1, 2]}
PANDALM = {"instruction": "p", "input": "", "response1": "x", "response2": "y", "annotator1": 1}
HH = {"chosen": "\n\nHuman: p\n\nAssistant: x", "rejected": "\n\nHuman: p\n\nAssistant: y"}
DEEP = "[" * 100_000

# reason, a usable row of the same kind, the line that is refused, words of the detail
LINES: list[tuple[str, dict[str, Any], bytes | str | dict[str, Any], str]] = [
    ("malformed_json", GOOD, '{"prompt": "p", "chosen": "x", "rejected": "y",}', "line 1 column"),
    ("malformed_json", GOOD, json.dumps(GOOD) * 2, "Extra data"),
    ("malformed_json", GOOD, "[1, 2", "Expecting"),
    ("malformed_json", GOOD, '{"prompt": ' + DEEP + "}", "nested too deeply"),
    ("malformed_json", GOOD, '{"prompt": "p", "chosen": "x", "rejected": "y", "n": ' + "9" * 5000 + "}", "digits"),
    ("malformed_json", GOOD, '{"prompt": "p\x00", "chosen": "x", "rejected": "y"}', "control character"),
    ("not_an_object", GOOD, '["p", "x", "y"]', "list"),
    ("not_an_object", GOOD, '"prompt"', "str"),
    ("duplicate_key", GOOD, '{"prompt": "p", "chosen": "x", "rejected": "y", "chosen": "z"}', "'chosen'"),
    ("duplicate_key", CHAT, '{"prompt": [{"role": "user", "role": "user", "content": "p"}]}', "'role'"),
    ("invalid_utf8", GOOD, b'{"prompt": "\xff", "chosen": "x", "rejected": "y"}', "byte 12"),
    ("invalid_utf8", GOOD, '{"prompt": "p\\ud800", "chosen": "x", "rejected": "y"}', "character 1"),
    ("control_character", GOOD, '{"prompt": "p\\u0000", "chosen": "x", "rejected": "y"}', "`prompt`"),
    ("control_character", CHAT, {**CHAT, "chosen": [{**ANSWER, "content": "\x1b[2J"}]}, "chosen[0].content"),
    ("wrong_type", GOOD, {**GOOD, "chosen": True}, "`chosen` is true or false (True), not text"),
    ("wrong_type", GOOD, {**GOOD, "chosen": 7}, "a whole number"),
    ("wrong_type", GOOD, {**GOOD, "prompt": ["p"]}, "a list"),
    ("wrong_type", GOOD, {**GOOD, "system": 3}, "`system`"),
    ("wrong_type", GOOD, {**GOOD, "id": [1]}, "`id` is a list"),
    ("wrong_type", GOOD, {**GOOD, "score_chosen": True, "score_rejected": 1}, "`score_chosen`"),
    ("wrong_type", CHAT, {**CHAT, "prompt": ["p"]}, "not a message"),
    ("wrong_type", CHAT, {**CHAT, "prompt": [{**USER, "tool_calls": [{"id": "1"}]}]}, "tool calls"),
    ("wrong_type", JUDGED, {**JUDGED, "shown_first": "left"}, "not a or b"),
    ("wrong_type", RANKED, {**RANKED, "scores": ["high", "low"]}, "'high'"),
    ("wrong_type", PANDALM, {**PANDALM, "response1": True}, "response1"),
    ("missing_key", GOOD, {"prompt": "p", "chosen": "x"}, "`rejected` is missing"),
    ("missing_key", CHAT, {**CHAT, "prompt": [{"role": "user"}]}, "no `content`"),
    ("null_value", GOOD, {**GOOD, "rejected": None}, "`rejected` is null"),
    ("null_value", CHAT, {**CHAT, "chosen": [{"role": "assistant", "content": None}]}, "null"),
    ("empty", GOOD, {**GOOD, "chosen": ""}, "`chosen` is empty"),
    ("empty", GOOD, {**GOOD, "prompt": " \n\t"}, "only whitespace"),
    ("empty", CHAT, {**CHAT, "prompt": [{"role": "user", "content": ""}]}, "prompt[0].content"),
    ("empty", PANDALM, {**PANDALM, "instruction": " "}, "both empty"),
    ("empty", HH, {**HH, "rejected": "\n\nHuman: p\n\nAssistant:"}, "says nothing"),
    ("identical_answers", GOOD, {**GOOD, "rejected": "x"}, "same text"),
    ("identical_answers_normalised", GOOD, {**GOOD, "chosen": "one two", "rejected": " one  two\n"}, "whitespace"),
    ("identical_answers_normalised", GOOD, {**GOOD, "chosen": "caf\u00e9", "rejected": "cafe\u0301"}, "Unicode"),
    ("bad_role", CHAT, {**CHAT, "prompt": []}, "empty list"),
    ("bad_role", CHAT, {**CHAT, "prompt": [USER, USER]}, "two user turns in a row"),
    ("bad_role", CHAT, {**CHAT, "prompt": [USER, ANSWER]}, "ends in assistant"),
    ("bad_role", CHAT, {**CHAT, "prompt": [ANSWER, USER]}, "begins with assistant"),
    ("bad_role", CHAT, {**CHAT, "prompt": [USER, ANSWER, {"role": "system", "content": "s"}, USER]}, "not the first"),
    ("bad_role", CHAT, {**CHAT, "prompt": [{"role": "system", "content": "s"}]}, "ends in system"),
    ("bad_role", CHAT, {**CHAT, "prompt": [{"role": "narrator", "content": "s"}]}, "unknown role 'narrator'"),
    ("bad_role", CHAT, {**CHAT, "chosen": [USER]}, "`chosen` ends in user"),
    ("bad_role", CHAT, {**CHAT, "chosen": []}, "0 messages"),
    ("bad_role", CHAT, {**CHAT, "chosen": [USER, ANSWER, USER], "rejected": [USER, OTHER]}, "ends in user"),
    ("bad_role", CHAT, {**CHAT, "prompt": [{"role": "system", "content": "s"}, USER], "system": "t"}, "`system`"),
    ("bad_role", HH, {**HH, "chosen": "Human says p"}, "does not begin"),
    ("answers_diverge_early", HH, {**HH, "chosen": HH["chosen"] + "\n\nHuman: q\n\nAssistant: z"}, "share 1 turns"),
    ("different_prompts", HH, {**HH, "chosen": "\n\nHuman: q\n\nAssistant: x"}, "same user turn"),
    (
        "different_prompts",
        CHAT,
        {**CHAT, "prompt": "q", "chosen": [USER, ANSWER], "rejected": [USER, OTHER]},
        "`prompt`",
    ),
    ("different_lengths", RANKED, {**RANKED, "scores": [1]}, "2 answers and 1 scores"),
    ("different_lengths", RANKED, {**RANKED, "responses": ["x"], "scores": [1]}, "needs two"),
    ("non_finite_score", RANKED, '{"prompt": "p", "responses": ["x", "y"], "scores": [1, NaN]}', "NaN"),
    ("non_finite_score", RANKED, '{"prompt": "p", "responses": ["x", "y"], "scores": [1, 1e999]}', "inf"),
    ("non_finite_score", GOOD, '{"prompt": "p", "chosen": "x", "rejected": "y", "score": -Infinity}', "-Infinity"),
    ("non_finite_score", GOOD, '{"prompt": "p", "chosen": "x", "rejected": "y", "my_Score": 1e999}', "my_Score"),
    ("unknown_verdict", JUDGED, {**JUDGED, "verdict": "left"}, "'left'"),
    ("unknown_verdict", JUDGED, {**JUDGED, "verdict": 1}, "1"),
    ("unknown_verdict", PANDALM, {**PANDALM, "annotator1": 3}, "3"),
    ("unknown_verdict", PANDALM, {**PANDALM, "annotator1": True}, "True"),
    ("too_large", GOOD, {**GOOD, "chosen": "x" * (4 << 20)}, "not parsed"),
    ("too_large", GOOD, {**GOOD, "chosen": "x" * (1 << 20)}, "1048578 bytes"),
    ("too_large", RANKED, {**RANKED, "responses": ["x"] * 65, "scores": [1] * 65}, "65 answers"),
    ("duplicate_id", {**GOOD, "id": 7}, {**GOOD, "id": "7"}, "'7'"),
]


def line_of(row: bytes | str | dict[str, Any]) -> bytes:
    if isinstance(row, bytes):
        return row
    return (row if isinstance(row, str) else json.dumps(row)).encode()


def refuse(path: Path) -> Refusal:
    """The one refusal of a file whose other rows are usable."""
    reading = read_judgments(path)
    totals(reading)
    (refusal,) = reading.refusals
    return refusal


@pytest.mark.parametrize(("reason", "good", "bad", "words"), LINES, ids=[f"{i}-{c[0]}" for i, c in enumerate(LINES)])
def test_refused_line(tmp_path: Path, reason: str, good: dict[str, Any], bad: Any, words: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(line_of(good) + b"\n\n" + line_of(bad) + b"\n")
    refusal = refuse(path)
    assert (refusal.reason, refusal.file, refusal.line, refusal.row) == (reason, str(path), 3, 1)
    assert words in refusal.detail
    assert refusal.text == line_of(bad).decode("utf-8", "replace")[:500]


# In an array an open bracket reaches to the end of the file; test_open_bracket_of_an_array has those.
CLOSED = [case for case in LINES if line_of(case[2]).count(b"[") <= line_of(case[2]).count(b"]")]


@pytest.mark.parametrize(("reason", "good", "bad", "words"), CLOSED, ids=[f"{i}-{c[0]}" for i, c in enumerate(CLOSED)])
def test_refused_element(tmp_path: Path, reason: str, good: dict[str, Any], bad: Any, words: str) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(b"[" + line_of(good) + b",\n\n " + line_of(bad) + b"\n]\n")
    refusal = refuse(path)
    assert (refusal.reason, refusal.line, refusal.row) == (reason, 3, 1)
    assert words in refusal.detail


def test_open_bracket_of_an_array_swallows_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(f"[{json.dumps(GOOD)},\n[1, 2,\n{json.dumps(GOOD)}]")
    refusal = refuse(path)
    assert (refusal.line, refusal.row, refusal.reason) == (2, 1, "not_an_object")
    path.write_text(f"[{json.dumps(GOOD)},\n{DEEP},\n{json.dumps(GOOD)}]")
    with pytest.raises(DataError, match="nested more than 10000 deep from line 1 on"):
        read_judgments(path)


def test_junk_of_any_size_stops_after_a_hundred_thousand_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(line_of(GOOD) + b"\n" + b"0\n" * 150_000)
    with pytest.raises(DataError, match=r"of the first 100000 rows 99999 cannot be used.*not_an_object 99999"):
        read_judgments(path)


def test_stacked_marks_are_compared_as_they_are(tmp_path: Path) -> None:
    # Sorting 80,000 marks takes minutes, so this test ends in time only if they are not sorted.
    path = tmp_path / "rows.jsonl"
    one, other = "\u0301\u0323", "\u0323\u0301"
    pairs = [("a" + one * count, "a" + other * count) for count in (1, 15, 16, 40_000)]
    path.write_bytes(
        b"\n".join(line_of({**GOOD, "chosen": chosen, "rejected": rejected}) for chosen, rejected in pairs)
    )
    reading = read_judgments(path)
    assert [(r.row, r.reason) for r in reading.refusals] == [(n, "identical_answers_normalised") for n in (0, 1)]


@given(words=st.lists(st.text(min_size=1, max_size=12), max_size=12), gap=st.sampled_from([" ", "\n\n", " \u2003"]))
def test_texts_that_differ_only_in_form_are_found(words: list[str], gap: str) -> None:
    for form in ("NFC", "NFD"):
        assert same_but_for_form(" ".join(words), normalize(form, gap.join([*words, ""])))
    assert not same_but_for_form(" ".join(words), " ".join([*words, "more"]))


def test_long_first_words_in_two_forms_are_the_same() -> None:
    # 30 characters a word composed, 60 decomposed: on either side of what is compared first.
    assert same_but_for_form(" ".join(["é" * 30] * 8), " ".join(["e\u0301" * 30] * 8))


def test_implicit_prompts_must_share_all_but_the_last_turn(tmp_path: Path) -> None:
    good = {"chosen": [USER, ANSWER], "rejected": [USER, OTHER]}
    early = {"chosen": [USER, ANSWER, USER, ANSWER], "rejected": [USER, OTHER, USER, OTHER]}
    apart = {"chosen": [USER, ANSWER], "rejected": [{**USER, "content": "q"}, OTHER]}
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(map(line_of, (good, early, apart))))
    assert [(r.reason, r.line) for r in read_judgments(path).refusals] == [
        ("answers_diverge_early", 2),
        ("different_prompts", 3),
    ]


@pytest.mark.parametrize("cut", [b'{"prompt": "p", "cho', b'{"prompt": "caf\xc3'])
def test_torn_last_line(tmp_path: Path, cut: bytes) -> None:
    lines, array = tmp_path / "rows.jsonl", tmp_path / "rows.json"
    lines.write_bytes(line_of(GOOD) + b"\n" + cut)
    array.write_bytes(b"[" + line_of(GOOD) + b",\n" + cut)
    for path in (lines, array):
        refusal = refuse(path)
        assert (refusal.reason, refusal.line, refusal.row) == ("torn_tail", 2, 1)


def test_whole_last_line_needs_no_line_end(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(line_of(GOOD))
    assert read_judgments(path).rows_used == 1


CSV = [
    ("malformed_csv", 'p,"x"y,z\n', 3),
    ("malformed_csv", "p,x,y,z\n", 3),
    ("torn_tail", 'p,x,"y', 3),
    ("missing_key", "p,x\n", 3),
    ("empty", "p,x,\n", 3),
    ("control_character", "p\0,x,y\n", 3),
    ("invalid_utf8", "p\udcff,x,y\n", 3),
    ("identical_answers", "p,x,x\n", 3),
    ("too_large", "p,x," + "y" * (4 << 20) + "\n", 3),
    ("too_large", 'p,"x\n' + 'y"" \n' * (1 << 20) + '",y\n', 3),
]


@pytest.mark.parametrize(("reason", "record", "line"), CSV, ids=[f"{i}-{c[0]}" for i, c in enumerate(CSV)])
def test_refused_record(tmp_path: Path, reason: str, record: str, line: int) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"prompt,chosen,rejected\np,x,y\n" + record.encode("utf-8", "surrogateescape"))
    reading = read_judgments(path)
    totals(reading)
    refusal = reading.refusals[0]
    assert (refusal.reason, refusal.line, refusal.row) == (reason, line, 1)


def test_every_reason_has_a_fixture() -> None:
    seen = {reason for reason, *_ in LINES} | {reason for reason, *_ in CSV} | {"torn_tail"}
    assert seen == REASONS.keys()


def test_line_of_four_mib_is_parsed_and_one_more_byte_is_not(tmp_path: Path) -> None:
    frame = len(json.dumps({**GOOD, "other": ""}))
    rows = [json.dumps({**GOOD, "chosen": c, "other": "o" * ((4 << 20) - frame + e)}) for c, e in (("x", 0), ("z", 1))]
    assert [len(row) for row in rows] == [4 << 20, (4 << 20) + 1]
    for name, text in (("r.jsonl", "\n".join(rows)), ("r.json", f"[{rows[0]},{rows[1]}]")):
        path = tmp_path / name
        path.write_text(text)
        refusal = refuse(path)
        assert (refusal.reason, refusal.row) == ("too_large", 1)


def test_what_is_normalised_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    odd = {**GOOD, "chosen": "ab\u200bc \u202edcba"}
    path.write_bytes(b"\xef\xbb\xbf" + line_of(GOOD) + b"\r\n\r\n \n" + line_of(odd) + b"\r\n")
    reading = read_judgments(path)
    assert reading.rows_in == reading.rows_used == 2
    assert reading.judgments[1].answer_a == odd["chosen"]
    assert reading.notes == (
        "blank lines skipped: 2",
        "byte order marks removed: 1",
        "lines that ended in CR LF, read as LF: 3",
        "rows with bidirectional, zero-width or C1 control characters, kept: 1",
    )


def test_same_id_with_other_content_fails_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(line_of({**GOOD, "id": 1}) + b"\n" + line_of({**GOOD, "id": 1, "chosen": "z"}))
    with pytest.raises(DataError, match=r"rows\.jsonl:2: the id '1' was given before to a row with other content"):
        read_judgments(path)


def test_equal_rows_without_ids_are_kept_and_told_apart(tmp_path: Path) -> None:
    path, other = tmp_path / "rows.jsonl", tmp_path / "other.jsonl"
    path.write_bytes(b"\n".join(map(line_of, (GOOD, GOOD, {**GOOD, "chosen": "z"}))))
    other.write_bytes(b"\n".join(map(line_of, ({**GOOD, "chosen": "z"}, GOOD, dict(reversed(GOOD.items()))))))
    ids = [judgment.id for judgment in read_judgments(path).judgments]
    assert ids[1] == f"{ids[0]}~2"
    assert len(set(ids)) == 3
    assert {judgment.id for judgment in read_judgments(other).judgments} == set(ids), "ids do not depend on the order"


def test_ties_between_identical_answers_are_judgments(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(line_of({**JUDGED, "answer_b": "x", "verdict": "tie"}))
    reading = read_judgments(path)
    assert [judgment.verdict for judgment in reading.judgments] == ["tie"]
    assert reading.notes == ("ties between identical answers, kept as judgments: 1",)


def test_nothing_usable_says_what_was_wrong(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        b"\n".join(map(line_of, ({**GOOD, "chosen": ""}, {**GOOD, "rejected": ""}, {**GOOD, "chosen": 1})))
    )
    with pytest.raises(DataError, match=r"none of 3 rows can be used as pairwise \(empty 2, wrong_type 1\)"):
        read_judgments(path)
    path.write_bytes(b"{\n{\n[]\n")
    with pytest.raises(DataError, match=r"no row could be parsed \(malformed_json 2, not_an_object 1\)"):
        read_judgments(path)


def test_description_counts_what_was_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    bad = ({**GOOD, "chosen": ""}, {**GOOD, "chosen": "y"}, {**GOOD, "rejected": " "})
    path.write_bytes(b"\n".join(map(line_of, (GOOD, *bad))))
    assert describe(read_judgments(path)) == ("read 4 rows as pairwise; 3 refused: empty 2, identical_answers 1")
