"""The catalogue of bad input: what each kind of bad row or file looks like, and what evenhand must answer.

A row's answer is `used`, a reason for refusing it, `note:` with a word of the note that counts it, or `finding:` with
the finding that names it. A file's answer is a part of the sentence that refuses it.
"""

import gzip
import io
import json
import zipfile
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

USER, YES, NO = (
    {"role": role, "content": text} for role, text in (("user", "p"), ("assistant", "x"), ("assistant", "y"))
)
LONG = "The order left our house on Monday and will reach you in three days at the latest. " * 4


def good(**changes: Any) -> dict[str, Any]:
    return {"prompt": "Where is it?", "chosen": "On its way.", "rejected": "No idea."} | changes


def line(**changes: Any) -> bytes:
    return json.dumps(good(**changes)).encode()


def without(*names: str) -> bytes:
    return json.dumps({key: value for key, value in good().items() if key not in names}).encode()


def chat(**changes: Any) -> bytes:
    return json.dumps({"prompt": [USER], "chosen": [YES], "rejected": [NO]} | changes).encode()


FIELDS = ("prompt", "chosen", "rejected")
ANSWERS = ("chosen", "rejected")
MARKUPS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "[INST]",
    "[/INST]",
    "<<SYS>>",
    "</s>",
    "<bos>",
    "<eos>",
)
SPLIT_MARKUPS = ("< |im_start| >", "<\u200b|im_start|>", "<|im_st art|>", "&lt;|im_start|&gt;", "< / s >")

PLAIN: dict[str, list[tuple[bytes, str]]] = {
    "D01": [
        (b'{"prompt": "p", "chosen": "x", "rejected": "y"', "malformed_json"),
        (b"prompt: p", "malformed_json"),
        (b"{\"prompt\": 'p'}", "malformed_json"),
        (b'{"prompt": "p" "chosen": "x"}', "malformed_json"),
        (b"{prompt: 1}", "malformed_json"),
        (b"}{", "malformed_json"),
        (b'{"prompt": "p\nq"}'.replace(b"\n", b"\t"), "malformed_json"),
        (b'{"prompt": "\\x41", "chosen": "x", "rejected": "y"}', "malformed_json"),
        (b'{"prompt": ' + b"[" * 20_000 + b"}", "malformed_json"),
    ],
    "D03": [
        (line()[:-1] + b",}", "malformed_json"),
        (line() + line(), "malformed_json"),
        (line() + b" " + line(), "malformed_json"),
        (line() + b",", "malformed_json"),
        (b"[" + line() + b"]", "not_an_object"),
        (b'"text"', "not_an_object"),
        (b"3", "not_an_object"),
        (b"null", "not_an_object"),
        (b"true", "not_an_object"),
    ],
    "D05": [
        *((json.dumps(good(**{name: "caf"})).encode().replace(b"caf", b"caf\xe9"), "invalid_utf8") for name in FIELDS),
        *((json.dumps(good(**{name: "caf"})).replace("caf", "caf\\ud83d").encode(), "invalid_utf8") for name in FIELDS),
        (line(prompt="X").replace(b"X", b"\xc0\xaf"), "invalid_utf8"),
        (line(prompt="X").replace(b"X", b"\xed\xa0\x80"), "invalid_utf8"),
    ],
    "D06": [
        *((line(**{name: "a\x00b"}), "control_character") for name in FIELDS),
        *((line(**{name: "\x1b[31mred"}), "control_character") for name in FIELDS),
        (line(chosen="ab\u202edc"), "note:bidirectional"),
        (line(chosen="a\u200bb"), "note:bidirectional"),
        (line(chosen="a\u0085b"), "note:bidirectional"),
        (line(prompt="a\u2066b\u2069"), "note:bidirectional"),
    ],
    "D07": [
        *((line(**{name: value}), "wrong_type") for name in FIELDS for value in (7, True, ["x"], {"a": 1}, 1.5)),
    ],
    "D09": [
        *((line(**{name: None}), "null_value") for name in FIELDS),
        *((without(name), "missing_key") for name in FIELDS),
        (b"{}", "missing_key"),
    ],
    "D10": [
        *((line()[:-1] + f', "{name}": "other"}}'.encode(), "duplicate_key") for name in FIELDS),
    ],
    "D11": [
        (line()[:-1] + b', "score": NaN}', "non_finite_score"),
        (line()[:-1] + b', "score": Infinity}', "non_finite_score"),
        (line()[:-1] + b', "score_chosen": 1e999, "score_rejected": 1}', "non_finite_score"),
        (line(score_chosen="high", score_rejected=1), "wrong_type"),
        (line(score_chosen=1, score_rejected=2), "note:lower score"),
        (line(score_chosen=2, score_rejected=2), "note:same score"),
    ],
    "D12": [
        (line(**{name: value}), "used") for name in ANSWERS for value in ("2024-01-05", "007", "1e5", "NaN", "true")
    ],
    "D13": [(line(**{name: value}), "empty") for name in FIELDS for value in ("", " ", "\n\t", "\u2003\u00a0")],
    "D14": [
        (line(chosen="same", rejected="same"), "identical_answers"),
        (line(chosen="two words", rejected=" two  words\n"), "identical_answers_normalised"),
        (line(chosen="caf\u00e9", rejected="cafe\u0301"), "identical_answers_normalised"),
        (line(chosen="On its way, Ann.", rejected="ON ITS WAY, ann."), "finding:identical_answers"),
    ],
    "D15": [
        (line(chosen=LONG, rejected=LONG.replace("Monday", "Mondays", 1)), "finding:near_tie"),
        (line(chosen=LONG + "Bye", rejected=LONG + "By"), "finding:near_tie"),
    ],
    "D18": [
        (line(chosen="x" * (1 << 20)), "too_large"),
        (line(prompt="x" * ((1 << 20) + 1)), "too_large"),
        (line(rejected="x" * (4 << 20)), "too_large"),
    ],
    "D20": [
        (line(prompt="Say it twice, please"), "used"),
        (line(prompt="Say it twice, please"), "finding:exact_duplicate"),
    ],
    "D21": [
        (
            line(prompt="Which one is right?", chosen="This one here", rejected="That one there"),
            "finding:contradiction",
        ),
        (
            line(prompt="Which one is right?", chosen="That one there", rejected="This one here"),
            "finding:contradiction",
        ),
        (line(prompt="Name a circle", chosen="first answer", rejected="second thing"), "finding:contradiction"),
        (line(prompt="Name a circle", chosen="second thing", rejected="third remark"), "finding:contradiction"),
        (line(prompt="Name a circle", chosen="third remark", rejected="first answer"), "finding:contradiction"),
    ],
    "D22": [
        *((line(chosen=f"Why does my model print {own} here?"), "finding:control_token") for own in MARKUPS),
        *((line(chosen=f"Write {own} as text."), "used") for own in SPLIT_MARKUPS),
    ],
    "D27": [
        (line(rejected="write to ann@example.org"), "finding:pii"),
        (line(rejected="the key is AKIAABCDEFGHIJKLMNOP"), "finding:pii"),
        (line(rejected="sk-proj-" + "a1b2" * 8), "finding:pii"),
        (line(rejected="-----BEGIN RSA PRIVATE KEY-----"), "finding:pii"),
        (line(rejected="pay with 4111 1111 1111 1111"), "finding:pii"),
        (line(rejected="IBAN DE89 3704 0044 0532 0130 00"), "finding:pii"),
    ],
}
"""Rows of `prompt`, `chosen`, `rejected` as text."""

CHAT: dict[str, list[tuple[bytes, str]]] = {
    "D24": [
        (chat(prompt=[]), "bad_role"),
        (chat(prompt=[USER, USER]), "bad_role"),
        (chat(prompt=[USER, YES]), "bad_role"),
        (chat(prompt=[YES, USER]), "bad_role"),
        (chat(prompt=[USER, YES, {"role": "system", "content": "s"}, USER]), "bad_role"),
        (chat(prompt=[{"role": "system", "content": "s"}]), "bad_role"),
        (chat(prompt=[{"role": "boss", "content": "s"}]), "bad_role"),
        (chat(chosen=[]), "bad_role"),
        (chat(chosen=[USER]), "bad_role"),
        (chat(rejected=[USER]), "bad_role"),
        (chat(chosen=[USER, YES, USER], rejected=[USER, NO]), "bad_role"),
        (chat(prompt=[{"content": "p"}]), "missing_key"),
        (chat(prompt=[{"role": "user"}]), "missing_key"),
        (chat(prompt=["p"]), "wrong_type"),
        (chat(prompt=[{**USER, "tool_calls": [1]}]), "wrong_type"),
    ],
    "D25": [
        (chat(chosen=[USER, YES], rejected=[{**USER, "content": "q"}, NO]), "different_prompts"),
        (chat(prompt=[{**USER, "content": "q"}], chosen=[USER, YES], rejected=[USER, NO]), "different_prompts"),
        (
            chat(chosen=[USER, YES, USER, YES], rejected=[USER, NO, USER, NO]),
            "answers_diverge_early",
        ),
    ],
}
"""Rows of message lists."""


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("rows.jsonl", line())
    return buffer.getvalue()


def parquet(**columns: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


ROW = {"prompt": ["p"], "chosen": ["x"], "rejected": ["y"]}

FILES: list[tuple[str, dict[str, bytes], str]] = [
    ("D03", {"rows.jsonl": b"[\n" + line() + b",\n" + line() + b"\n]\n"}, "one JSON array"),
    ("D03", {"rows.jsonl": json.dumps(good(), indent=1).encode()}, "over several lines"),
    ("D08", {"a.parquet": parquet(**ROW), "b.parquet": parquet(**ROW, more=[1])}, r"columns differ.*more \(absent"),
    ("D08", {"a.parquet": parquet(**ROW), "b.parquet": parquet(**(ROW | {"chosen": [1]}))}, r"chosen \(string / int64"),
    (
        "D08",
        {"a.parquet": parquet(**ROW), "b.parquet": parquet(**(ROW | {"chosen": pa.array(["x"], pa.large_string())}))},
        r"chosen \(string / large_string",
    ),
    (
        "D08",
        {"a.parquet": parquet(**ROW), "b.parquet": parquet(prompt=["p"], chosen=["x"])},
        r"rejected \(string / absent",
    ),
    (
        "D19",
        {"rows.jsonl": line(id=1) + b"\n" + line(id=1, chosen="other")},
        "given before to a row with other content",
    ),
    ("D28", {"rows.jsonl": b""}, "is empty"),
    ("D28", {"rows.jsonl": b"\n \n"}, "is empty"),
    ("D28", {"rows.jsonl": line(chosen="") + b"\n" + line(chosen=" ")}, "none of 2 rows can be used"),
    ("D28", {"rows.csv": b"prompt,chosen,rejected\n"}, "no row could be parsed|none of 0 rows"),
    ("D29", {"rows.jsonl": gzip.compress(line())}, "packed .gzip."),
    ("D29", {"rows.jsonl": zipped()}, "a zip archive"),
    ("D29", {"rows.jsonl": b"\x28\xb5\x2f\xfd" + line()}, "zstandard"),
    ("D29", {"rows.jsonl": b"\xff\xfe" + line().decode().encode("utf-16-le")}, "UTF-16"),
]
"""Files that are refused as a whole, by name and content; several files are one folder."""
