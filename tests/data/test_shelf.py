"""A shelf gives back what was put on it, from memory or from disk."""

import random
import subprocess
import sys
from dataclasses import replace

import pytest

from evenhand.data.read import read_judgments
from evenhand.data.schema import Judgment, Message
from evenhand.data.shelf import Gathering, Shelf


def drawn(seed, count):
    random_ = random.Random(seed)
    alphabet = "ab \n\t\"'\\é漢🙂\u202e\r"
    told = lambda most: "".join(random_.choice(alphabet) for _ in range(random_.randint(1, most)))  # noqa: E731
    for row in range(count):
        turns = tuple(
            Message(role, told(30)) for role in ("system", "user", "assistant", "user")[: random_.randint(1, 4)]
        )
        own = Judgment(f"é{row}", row, f"g{row % 7}", turns, told(400), told(400), random_.choice(["a", "b", "tie"]))
        if row % 2:
            own = replace(own, annotator=told(5) + "x", shown_first=random_.choice("ab"), time=f"2025-01-{row}")
        yield own if row % 3 else replace(own, category="c", family="f")


def shelved(rows):
    shelf = Shelf()
    for own in rows:
        shelf.append(own)
    shelf.seal()
    return shelf


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 700])
def test_everything_comes_back_in_order_and_by_place(count):
    rows = list(drawn(count, count))
    shelf = shelved(rows)
    assert (len(shelf), list(shelf), list(shelf)) == (count, rows, rows)
    assert [shelf[at] for at in range(count)] == rows
    assert list(shelf[3:90:7]) == rows[3:90:7]
    if rows:
        assert shelf[-1] == rows[-1]
    with pytest.raises(IndexError):
        shelf[count]


def test_few_judgments_stay_in_memory_and_many_do_not():
    rows = list(drawn(0, 50))
    for characters, kind in ((1_000_000, tuple), (0, Shelf), (3_000, Shelf)):
        gathering = Gathering(characters)
        for own in rows:
            gathering.add(own)
        assert len(gathering) == 50
        found = gathering.finished()
        assert isinstance(found, kind)
        assert list(found) == rows


def test_a_file_read_over_the_limit_gives_the_same_judgments(tmp_path, monkeypatch):
    lines = [f'{{"prompt": "p{row}", "chosen": "x{row}", "rejected": "y"}}' for row in range(600)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    small = read_judgments(tmp_path / "rows.jsonl")
    monkeypatch.setattr("evenhand.data.shelf.MEMORY_CHARACTERS", 100)
    large = read_judgments(tmp_path / "rows.jsonl")
    assert isinstance(large.judgments, Shelf)
    assert tuple(large.judgments) == small.judgments
    assert large.rows_used == small.rows_used == 600


FULL = """
import resource, signal, sys
from evenhand.data.shelf import Shelf
from evenhand.data.schema import Judgment, Message
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
shelf = Shelf()
try:
    for row in range(100):
        shelf.append(Judgment(str(row), row, "g", (Message("user", "p"),), "x" * 9000, "y", "a"))
    shelf.seal()
except OSError as error:
    print("stopped", error.errno)
"""


def test_a_full_disk_is_an_error_and_no_silent_loss():
    done = subprocess.run([sys.executable, "-c", FULL], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("stopped")
