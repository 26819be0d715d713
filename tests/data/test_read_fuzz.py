"""Whatever bytes a file holds, it is read with totals that add up or refused in one sentence."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evenhand.data.elements import ArrayCutter
from evenhand.data.ledger import totals
from evenhand.data.read import read_judgments
from evenhand.errors import DataError

leaf = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.sampled_from(["p", "x", "y"])
turn = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "narrator"]) | leaf, "content": leaf}
)
value = leaf | st.lists(turn | leaf, max_size=3) | turn
NAMES = ["prompt", "chosen", "rejected", "id", "group", "responses", "scores", "answer_a", "answer_b", "verdict"]
fields = st.dictionaries(st.sampled_from(NAMES), value)
good = st.builds(lambda answer: {"prompt": "p", "chosen": f"x{answer}", "rejected": "y"}, st.integers(0, 9))
row = good | fields | st.builds(lambda one, two: {**one, **two}, good, fields)


def encoded(item: Any) -> bytes:
    return json.dumps(item).encode()


cut = st.builds(lambda item, end: encoded(item)[:end], row, st.integers(0, 40))
line = row.map(encoded) | good.map(encoded) | cut | st.binary(max_size=30) | value.map(encoded)
ending = st.sampled_from([b"\n", b"\n", b"\r\n", b"\n\n", b""])
anything = st.lists(st.tuples(line, ending).map(b"".join), max_size=8).map(b"".join)


def read_or_refuse(path: Path) -> None:
    try:
        reading = read_judgments(path)
    except DataError as error:
        message = str(error).splitlines()
    else:
        assert totals(reading)["rows_used"] > 0
        assert (
            reading.rows_in
            == reading.rows_used + len(reading.refusals)
            == reading.rows_used + sum(reading.refused.values())
        )
        assert len({judgment.id for judgment in reading.judgments}) == len(reading.judgments)
        return
    assert len(message) == 1
    assert str(path) in message[0]


fuzz = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ""])
@fuzz
@given(content=anything)
def test_any_lines(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(content)
    read_or_refuse(path)


@fuzz
@given(rows=st.lists(row.map(encoded) | cut, max_size=6))
def test_any_array(tmp_path: Path, rows: list[bytes]) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(b"[" + b",".join(rows) + b"]")
    read_or_refuse(path)


@fuzz
@given(rows=st.lists(st.lists(st.text(max_size=5) | st.just("x"), min_size=2, max_size=5), max_size=6), end=st.binary())
def test_any_records(tmp_path: Path, rows: list[list[str]], end: bytes) -> None:
    buffer = io.StringIO()
    csv.writer(buffer).writerows([["prompt", "chosen", "rejected"], ["p", "x", "y"], *rows])
    path = tmp_path / "rows.csv"
    path.write_bytes(buffer.getvalue().encode("utf-8", "surrogatepass") + end)
    read_or_refuse(path)


@given(
    items=st.lists(
        st.recursive(leaf, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner), max_leaves=8)
    ),
    size=st.integers(1, 9),
    indent=st.none() | st.integers(0, 2),
)
def test_array_is_cut_where_a_parser_would_cut_it(items: list[Any], size: int, indent: int | None) -> None:
    text = json.dumps(items, indent=indent).encode()
    cutter = ArrayCutter("rows")
    pieces = [piece for at in range(0, len(text), size) for piece in cutter.cut(text[at : at + size])]
    assert cutter.closed
    assert [json.dumps(json.loads(piece.content)) for piece in pieces] == [json.dumps(item) for item in items]
    starts = [text.split(b"\n")[piece.line - 1].lstrip()[:1] for piece in pieces]
    assert [start in (b"[", piece.content[:1]) for start, piece in zip(starts, pieces, strict=True)] == [True] * len(
        items
    )
