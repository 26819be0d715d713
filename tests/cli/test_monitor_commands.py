"""The commands over a monitor's store: they ask the one that is there, and make none where somebody has mistaken the place."""

import sqlite3
from pathlib import Path

import pytest
from test_commands import Invoke, assert_refused, invoke

__all__ = ["invoke"]

ASKING = [
    ("verify",),
    ("alarms",),
    ("keys",),
    ("revoke", "0123456789abcdef"),
    ("erase", "--actor", "ann"),
]


@pytest.mark.parametrize("words", ASKING, ids=lambda words: words[0])
def test_a_place_without_a_store_is_refused_and_stays_as_it_is(invoke: Invoke, words: tuple[str, ...]) -> None:
    assert_refused(invoke("monitor", "--folder", "nothere", *words), "nothere is not there")
    Path("empty").mkdir()
    assert invoke("monitor", "--folder", "empty", *words).code == 2
    assert list(Path("empty").iterdir()) == []


def test_another_programs_database_is_refused_and_gets_no_tables(invoke: Invoke) -> None:
    Path("other").mkdir()
    with sqlite3.connect("other/events.db") as database:
        database.execute("CREATE TABLE meetings (day TEXT)")
    assert "holds no events of `evenhand monitor`" in invoke("monitor", "--folder", "other", "verify").err
    assert invoke("collect", "other", "--out", "collected").code == 2
    assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("meetings",)]
    database.close()


def test_a_key_that_is_made_begins_a_store_that_the_others_then_ask(invoke: Invoke) -> None:
    assert invoke("monitor", "--folder", "m", "key", "write").code == 0
    assert invoke("monitor", "--folder", "m", "keys").out.endswith(" default write\n")
    assert invoke("monitor", "--folder", "m", "verify").out.startswith("0 events are what was acknowledged")
    assert invoke("monitor", "--folder", "m", "alarms").out == "no alarm has ever opened\n"
