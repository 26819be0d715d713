"""Events become judgments and thumbs, each row naming the events that it rests on."""

import json
import shutil
import signal
import subprocess
import sys

import pytest
from click.testing import Result
from happenings import production
from typer.testing import CliRunner

from evenhand.cli.main import app
from evenhand.data.read import read_judgments, read_pairs
from evenhand.data.votes import answer_kind, read_answers
from evenhand.errors import DataError, UserError
from evenhand.service.chain import verify
from evenhand.service.flywheel.collection import Order, collect
from evenhand.service.flywheel.quarantine import QuarantineRules
from evenhand.service.flywheel.review import ballot_of, released_by
from evenhand.service.flywheel.shelf import Shelf, read_rows
from evenhand.service.store import Store

PARCEL = "Where is my parcel?"


def gathered(store: Store, out, **order) -> dict:
    return collect(store, Order(**order), Shelf.at(out))


def rows_of(out) -> list[dict]:
    return [dict(row) for row in read_rows(Shelf.at(out).judgments)]


def sides(row: dict) -> tuple[str, str]:
    """The better and the worse answer of a judgment's row."""
    answers = row["answer_a"], row["answer_b"]
    return answers if row["verdict"] == "a" else answers[::-1]


def test_an_edit_is_what_was_sent_over_what_was_drafted(tmp_path):
    with production(tmp_path / "m") as happens:
        happens.draft("d1", [{"role": "user", "content": PARCEL}], "Soon.")
        edit = happens.happen("edit", "d1", text="Soon.", sent="It arrives on Friday.", actor="ann")
        record = gathered(happens.store, tmp_path / "out")
    (row,) = rows_of(tmp_path / "out")
    assert sides(row) == ("It arrives on Friday.", "Soon.")
    assert row["prompt"] == [{"role": "user", "content": PARCEL}]
    assert row["events"] == ["draft-d1", edit]
    assert (row["annotator"], row["category"], row["model"], row["origin"]) == ("ann", "delivery", "harbor-2", "edit")
    assert row["time"] == "2026-11-02T08:02:00.000+00:00"
    assert record["rows"] == {"judgments": 1, "thumbs": 0, "held": 0}


def test_a_takeover_is_a_pair_where_its_reply_is_known_and_else_a_rejection(tmp_path):
    with production(tmp_path / "m") as happens:
        happens.draft("d1", PARCEL, "Soon.")
        happens.happen("takeover", "d1", sent="Hi, Ann here: it is at the depot.", actor="ann")
        happens.draft("d2", "Refund?", "No.")
        happens.happen("takeover", "d2", actor="bob")
        record = gathered(happens.store, tmp_path / "out")
    (row,) = rows_of(tmp_path / "out")
    assert sides(row) == ("Hi, Ann here: it is at the depot.", "Soon.")
    assert record["left_out"] == {"takeover_without_text": 1}


def test_sent_alone_says_nothing_and_sent_over_a_rejected_reply_is_a_pair(tmp_path):
    with production(tmp_path / "m") as happens:
        happens.draft("d1", PARCEL, "Soon.")
        down = happens.happen("thumb", "d1", up=False, actor="ann")
        happens.draft("d2", PARCEL, "On Friday.")
        sent = happens.happen("sent", "d2", actor="ann")
        happens.draft("d3", "Refund?", "Yes, today.")
        happens.happen("sent", "d3", actor="ann")
        gathered(happens.store, tmp_path / "out")
    (row,) = rows_of(tmp_path / "out")
    assert sides(row) == ("On Friday.", "Soon.")
    assert (row["origin"], row["annotator"]) == ("sent", "ann")
    assert row["events"] == ["draft-d2", sent, "draft-d1", down]


def test_a_reply_that_was_sent_and_rejected_as_well_wins_nothing(tmp_path):
    with production(tmp_path / "m") as happens:
        for name, text in (("d1", "Soon."), ("d2", "On Friday.")):
            happens.draft(name, PARCEL, text)
            happens.happen("sent", name, actor="ann")
            happens.happen("thumb", name, up=False, actor="customer-4")
        gathered(happens.store, tmp_path / "out")
    assert rows_of(tmp_path / "out") == []


@pytest.mark.parametrize(("ups", "downs", "expected"), [(5, 2, 0), (2, 2, 0), (1, 2, 1), (0, 3, 1)])
def test_a_reply_loses_to_one_that_was_sent_if_most_of_its_thumbs_are_down_and_once(tmp_path, ups, downs, expected):
    with production(tmp_path / "m") as happens:
        happens.draft("judged", PARCEL, "Soon.")
        for at, up in enumerate([True] * ups + [False] * downs):
            happens.happen("thumb", "judged", f"thumb-{at}", up=up, actor=f"c{at}")
        for name in ("s1", "s2", "s3"):
            happens.draft(name, PARCEL, f"It arrives on {name}.")
            happens.happen("sent", name, actor="ann")
        happens.draft("other", "Refund?", "Yes, today.")
        happens.happen("thumb", "other", up=True, actor="c0")
        gathered(happens.store, tmp_path / "out")
    rows = [row for row in rows_of(tmp_path / "out") if row["origin"] == "sent"]
    assert [sides(row) for row in rows] == [("It arrives on s1.", "Soon.")] * expected
    for row in rows:
        assert row["events"][2:] == ["draft-judged", *(f"thumb-{at}" for at in range(ups, ups + downs))]


def test_a_reply_that_was_taken_over_and_has_a_thumb_down_loses_once(tmp_path):
    with production(tmp_path / "m") as happens:
        happens.draft("bad", PARCEL, "Soon.")
        down = happens.happen("thumb", "bad", up=False, actor="c1")
        taken = happens.happen("takeover", "bad", actor="bob")
        for name in ("s1", "s2"):
            happens.draft(name, PARCEL, f"It arrives on {name}.")
            happens.happen("sent", name, actor="ann")
        gathered(happens.store, tmp_path / "out")
    (row,) = rows_of(tmp_path / "out")
    assert row["events"][2:] == ["draft-bad", down, taken]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("thumb", {"up": False, "text": "Never drafted."}),  # held back as other_text
        ("edit", {"text": "On Friday.", "sent": "By Saturday, I think."}),
        ("takeover", {"sent": "Ann here: it is at the depot."}),
        ("takeover", {}),
    ],
)
def test_a_reply_that_was_held_edited_or_taken_over_does_not_win_by_being_sent(tmp_path, kind, fields):
    with production(tmp_path / "m") as happens:
        happens.draft("bad", PARCEL, "Soon.")
        happens.happen("thumb", "bad", up=False, actor="c1")
        happens.draft("doubted", PARCEL, "On Friday.")
        happens.happen("sent", "doubted", actor="ann")
        happens.happen(kind, "doubted", actor="bob", **fields)
        happens.draft("good", PARCEL, "It is with your neighbour.")
        happens.happen("sent", "good", actor="ann")
        gathered(happens.store, tmp_path / "out")
    sent = [row for row in rows_of(tmp_path / "out") if row["origin"] == "sent"]
    assert ("It is with your neighbour.", "Soon.") in map(sides, sent)
    assert all(sides(row)[0] != "On Friday." for row in sent)


def test_thumbs_become_unpaired_rows_that_kto_reads_and_the_majority_decides(tmp_path):
    with production(tmp_path / "m") as happens:
        for name, ups in (("liked", (True, True, False)), ("split", (True, False)), ("disliked", (False,))):
            happens.draft(name, f"Question about {name}?", f"Answer to {name}.")
            for at, up in enumerate(ups):
                happens.happen("thumb", name, up=up, actor=f"c{at}")
        happens.happen("thumb", "disliked", up=True, actor="c7")
        happens.happen("thumb", "disliked", up=False, actor="c7")  # c7 has thought again
        record = gathered(happens.store, tmp_path / "out")
    file = Shelf.at(tmp_path / "out").thumbs
    kind = answer_kind(file)
    reading, pairs = read_answers(file, kind)
    assert kind.form == "votes"
    assert {pair.chosen or pair.rejected: pair.lacks for pair in pairs} == {
        "Answer to liked.": "rejected",
        "Answer to disliked.": "chosen",
    }
    assert not reading.refusals
    assert record["left_out"] == {"thumb_outvoted": 3, "thumb_withdrawn": 1}


@pytest.mark.parametrize(("by", "expected"), [("same", 1), ("family", 2), ("none", 0)])
def test_thumbs_are_paired_by_prompt_or_family(tmp_path, by, expected):
    asked = "Where is my order {}, which I paid for on Monday with my credit card?"
    with production(tmp_path / "m") as happens:
        for name, prompt, up in (
            ("d1", PARCEL, True),
            ("d2", PARCEL, False),
            ("d3", asked.format(17), True),
            ("d4", asked.format(99), False),
        ):
            happens.draft(name, prompt, f"Reply {name} in words of its own.")
            happens.happen("thumb", name, up=up, actor=f"c-{name}")
        gathered(happens.store, tmp_path / "out", thumb_pairs=by)
    rows = rows_of(tmp_path / "out")
    assert len(rows) == expected
    assert all(row["origin"] == "thumbs" and row["annotator"] is None for row in rows)


def test_what_says_nothing_is_counted_by_reason(tmp_path):
    with production(tmp_path / "m") as happens:
        happens.draft("bare", None, "Soon.")
        happens.happen("edit", "bare", text="Soon.", sent="On Friday.")
        happens.draft("mute", "  ", "Soon.")
        happens.happen("edit", "mute", text="Soon.", sent="On Friday.")
        happens.draft("same", PARCEL, "Soon.")
        happens.happen("edit", "same", text="Soon.", sent="Soon.")
        happens.happen("edit", "same", text="Soon.", sent=" Soon.  ")
        happens.happen("edit", "same", text="Soon.", sent="   ")
        happens.happen("edit", "same", text="Soon.", sent="On Friday.")
        record = gathered(happens.store, tmp_path / "out")
    assert record["left_out"] == {
        "no_prompt": 1,
        "identical_answers": 1,
        "identical_answers_normalised": 1,
        "empty": 2,
    }


def test_audit_and_curate_read_the_folder_and_pairs_keep_the_rows_names(tmp_path):
    with production(tmp_path / "m") as happens:
        for at in range(12):
            happens.draft(f"d{at}", f"Question {at} about {'xyz'[at % 3] * 5}?", f"Draft {at}: we shall see.")
            words = f"Answer {at} is a different text in {at * 7} words."
            happens.happen("edit", f"d{at}", text=f"Draft {at}: we shall see.", sent=words, actor=f"a{at % 3}")
        happens.happen("thumb", "d3", up=True, actor="c1")
        gathered(happens.store, tmp_path / "out")
    reading = read_judgments(tmp_path / "out")
    assert (reading.kind, reading.rows_used, reading.refusals) == ("judgments", 12, ())
    by_id = {row["id"]: row for row in rows_of(tmp_path / "out")}
    pairs = read_pairs(tmp_path / "out")[1]
    assert len(pairs) == 12
    assert all(sides(by_id[pair.id]) == (pair.chosen, pair.rejected) for pair in pairs)
    assert {row["verdict"] for row in by_id.values()} == {"a", "b"}


def test_the_same_store_gives_the_same_bytes(tmp_path):
    with production(tmp_path / "m") as happens:
        happens.draft("d1", PARCEL, "Soon.")
        happens.happen("edit", "d1", text="Soon.", sent="It arrives on Friday.", actor="ann")
        for name in ("one", "two", "two"):
            gathered(happens.store, tmp_path / name)
    files = [sorted((tmp_path / name).rglob("*.json*")) for name in ("one", "two")]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]
    assert len(files[0]) == 4


def test_what_is_appended_while_a_run_reads_is_for_the_next(tmp_path):
    with production(tmp_path / "m") as happens:
        happens.draft("d1", PARCEL, "Soon.")
        happens.happen("thumb", "d1", up=False, actor="ann")
        happens.happen("sent", "late", actor="ann")  # before its draft is known

        def append(*_: object) -> None:
            if happens.minute == 3:
                happens.draft("late", PARCEL, "On Friday.")
                happens.draft("d2", "Refund?", "No.")
                happens.happen("edit", "d2", text="No.", sent="Yes, today.", actor="ann")

        quiet = gathered(happens.store, tmp_path / "quiet")
        assert gathered(happens.store, tmp_path / "busy", tell=append) == quiet
        assert happens.store.head()[0] == 6
        after = gathered(happens.store, tmp_path / "busy")
    assert (quiet["store"]["events"], quiet["rows"]["judgments"]) == (3, 0)
    assert (after["store"]["events"], after["origins"]) == (6, {"edit": 1, "sent": 1, "thumb": 1})


def test_a_file_can_be_named_and_what_is_not_ours_is_left_alone(tmp_path):
    with production(tmp_path / "m") as happens:
        happens.draft("d1", PARCEL, "Soon.")
        happens.happen("edit", "d1", text="Soon.", sent="It arrives on Friday.")
        gathered(happens.store, tmp_path / "pairs.jsonl")
        assert len(read_judgments(tmp_path / "pairs.jsonl").judgments) == 1
        assert (tmp_path / "pairs.collection.json").exists()
        (tmp_path / "mine.jsonl").write_text("{}\n")
        with pytest.raises(UserError, match=r"mine\.jsonl was not written by a collection"):
            gathered(happens.store, tmp_path / "mine.jsonl")
    assert (tmp_path / "mine.jsonl").read_text() == "{}\n"


def test_an_empty_store_and_one_without_verdicts_say_what_is_missing(tmp_path):
    with production(tmp_path / "m") as happens:
        with pytest.raises(DataError, match="holds no event"):
            gathered(happens.store, tmp_path / "out")
        happens.draft("d1", PARCEL, "Soon.")
        with pytest.raises(DataError, match="of 1 events none of tenant default"):
            gathered(happens.store, tmp_path / "out")


def test_an_erasure_takes_rows_out_changes_the_hash_and_names_what_went(tmp_path):
    out = tmp_path / "out"
    with production(tmp_path / "m") as happens:
        for name in ("keep", "gone"):
            happens.draft(name, f"Question of {name}?", f"Draft for {name}.")
            happens.happen("edit", name, f"edit-{name}", text=f"Draft for {name}.", sent=f"Other words, {name}.")
        happens.happen("thumb", "gone", up=False, actor="cust", name="thumb-gone")
        before = gathered(happens.store, out)
        names = {row["events"][-1]: row["id"] for row in rows_of(out)}
        thumb = read_rows(Shelf.at(out).thumbs)[0]["id"]
        happens.store.erase("default", "conversation", "c-gone", 0)
        after = gathered(happens.store, out)
        again = gathered(happens.store, out)
        assert verify(happens.store.database).problem is None
    assert [row["events"][-1] for row in rows_of(out)] == ["edit-keep"]
    assert after["hash"] != before["hash"]
    assert after["previous"] == before["hash"]
    assert after["erased"] == {
        names["edit-gone"]: ["draft-gone", "edit-gone"],
        thumb: ["draft-gone", "thumb-gone"],
    }
    assert again == after
    assert not [file for file in out.rglob("*.json*") if "gone." in file.read_text() or "of gone" in file.read_text()]


COLLECT_AND_DIE = """
import os, signal, sys
from pathlib import Path
from evenhand.service.place import open_database
from evenhand.service.flywheel.collection import Order, collect
from evenhand.service.flywheel.shelf import Shelf
from evenhand.service.store import Store

folder, deed, file = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

def die(event, given):
    if event == deed and str(given[event == "os.rename"]).endswith(file):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(die)
collect(Store(open_database(str(folder / "m" / "events.db"))), Order(), Shelf.at(folder / "out"))
"""


def collect_and_die(folder, file: str, deed: str = "os.rename") -> None:
    """Collect in a process that is killed before `file` gets its new content, or is removed."""
    done = subprocess.run([sys.executable, "-c", COLLECT_AND_DIE, str(folder), deed, file], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_run_that_was_killed_loses_no_record_of_what_was_erased(tmp_path):
    with production(tmp_path / "m") as happens:
        for name in ("keep", "gone"):
            happens.draft(name, f"Question of {name}?", f"Draft for {name}.")
            happens.happen("edit", name, text=f"Draft for {name}.", sent=f"Other words, {name}.")
        happens.happen("thumb", "gone", up=False, actor="cust")
        gathered(happens.store, tmp_path / "out")
        shutil.copytree(tmp_path / "out", tmp_path / "whole")
        happens.store.erase("default", "conversation", "c-gone", 0)
        happens.draft("new", "A new question?", "A new draft.")
        happens.happen("edit", "new", text="A new draft.", sent="New words.")
        for file in ("thumbs.jsonl", "collection.json"):  # the second run is killed, and the third again
            collect_and_die(tmp_path, file)
            assert list((tmp_path / "out").rglob(".*.staging-*"))
            assert len(rows_of(tmp_path / "out")) == 2
            assert not Shelf.at(tmp_path / "out").read()[0]["erased"]
        record = gathered(happens.store, tmp_path / "out")
        assert (len(record["erased"]), len(record["removed"]), record["added"]) == (2, 2, 1)
        assert gathered(happens.store, tmp_path / "whole") == record
        assert gathered(happens.store, tmp_path / "out") == record
    names = {file.name for file in (tmp_path / "out").rglob("*.*")}
    assert names == {"judgments.jsonl", "thumbs.jsonl", "held.jsonl", "collection.json"}


def test_a_run_that_was_killed_as_the_first_or_after_its_record_is_no_hindrance(tmp_path):
    with production(tmp_path / "m") as happens:
        happens.draft("d1", PARCEL, "Soon.")
        happens.happen("edit", "d1", text="Soon.", sent="It arrives on Friday.", name="edit-d1")
        collect_and_die(tmp_path, "held.jsonl")
        collect_and_die(tmp_path, ".begun", "os.remove")
        assert Shelf.at(tmp_path / "out").read()[0]["rows"]["judgments"] == 1
        happens.store.erase("default", "conversation", "c-d1", 0)
        record = gathered(happens.store, tmp_path / "out")
    assert list(record["erased"].values()) == [["draft-d1", "edit-d1"]]


def test_an_erasure_of_all_that_there_is_empties_the_files(tmp_path):
    out = tmp_path / "out"
    with production(tmp_path / "m") as happens:
        happens.draft("d1", PARCEL, "Soon.")
        happens.happen("edit", "d1", text="Soon.", sent="It arrives on Friday.")
        gathered(happens.store, out)
        happens.store.erase("default", "conversation", "c-d1", 0)
        record = gathered(happens.store, out)
    assert record["rows"] == {"judgments": 0, "thumbs": 0, "held": 0}
    assert len(record["erased"]) == 1
    assert Shelf.at(out).judgments.read_bytes() == b""


@pytest.fixture
def held(tmp_path):
    """A production of which one edit is held back, collected in `out`."""
    with production(tmp_path / "m") as happens:
        happens.draft("d1", PARCEL, "Soon.")
        happens.happen("edit", "d1", text="Never drafted.", sent="It arrives on Friday.", actor="ann")
        gathered(happens.store, tmp_path / "out")
        yield happens.store, Shelf.at(tmp_path / "out")


def test_a_person_releases_held_rows_by_giving_the_file_back(held, tmp_path):
    store, shelf = held
    (row,) = read_rows(shelf.held)
    assert (row["reason"], row["release"], read_rows(shelf.judgments)) == ("other_text", False, [])
    reviewed = tmp_path / "reviewed.jsonl"
    reviewed.write_text(json.dumps(row | {"release": True}) + "\n")
    for _ in range(2):  # a second run with the same review changes nothing
        record = collect(store, Order(), shelf, released_by(reviewed, shelf))
        assert record["rows"] == {"judgments": 1, "thumbs": 0, "held": 0}
        assert record["released"] == [row["id"]]
    assert collect(store, Order(), shelf)["rows"]["held"] == 1
    reviewed.write_text('{"id": "x"}\n')
    with pytest.raises(UserError, match="no file of held rows or votes"):
        released_by(reviewed, shelf)


@pytest.mark.parametrize(("choices", "rows"), [("ww", 1), ("wwl", 1), ("wl", 0), ("l", 0), ("w=", 1), ("=", 0)])
def test_people_release_a_held_pair_by_a_majority_on_a_blind_page(held, tmp_path, choices, rows):
    store, shelf = held
    votes = tmp_path / "votes.jsonl"
    ballot = ballot_of(shelf, votes)
    for number, choice in enumerate(choices):
        shown = ballot.next(f"voter {number}")
        better = "left" if shown.replies[0] == "It arrives on Friday." else "right"
        worse = {"left": "right", "right": "left"}[better]
        said = {"w": better, "l": worse, "=": "tie"}[choice]
        assert ballot.vote(f"voter {number}", shown.question.id, said, "2026-11-25T10:00:00+00:00")
    for _ in range(2):
        assert collect(store, Order(), shelf, released_by(votes, shelf))["rows"]["judgments"] == rows
    if rows:
        with pytest.raises(UserError, match="holds no pair back"):
            ballot_of(shelf, tmp_path / "other.jsonl")


def test_the_command_collects_and_says_what_a_newcomer_has_wrong(tmp_path):
    def run(*words: str) -> Result:
        return CliRunner().invoke(app, ["collect", *words, "--out", str(tmp_path / "out"), "--json"])

    missing = run(str(tmp_path / "nowhere"))
    assert "is not there; give the folder of `evenhand monitor`" in str(missing.exception)
    with production(tmp_path / "m") as happens:
        happens.draft("d1", PARCEL, "Soon.")
        happens.happen("edit", "d1", text="Soon.", sent="It arrives on Friday.", actor="ann")
    done = run(str(tmp_path / "m"))
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["rows"]["judgments"] == 1


def test_a_burst_a_copy_and_too_much_of_one_actor_are_held_back(tmp_path):
    hour = 3_600_000
    with production(tmp_path / "m") as happens:

        def edit(name: str, words: str, actor: str, at_ms: int) -> None:
            happens.draft(name, f"Question {name}?", f"Draft {name}.")
            happens.happen("edit", name, text=f"Draft {name}.", sent=words, actor=actor, at_ms=at_ms)

        base = 1_790_000_000_000
        for at in range(8):  # eight within eight minutes
            edit(f"fast{at}", f"Quick answer number {at}.", "fast", base + at * 60_000)
        for at in range(4):
            edit(f"slow{at}", f"Slow answer with number {at}.", "slow", base + at * hour)
        happens.draft("copy", "Question slow1?", "Draft slow1.")
        happens.happen("edit", "copy", text="Draft slow1.", sent="Slow answer with number 1.", actor="slow")
        rules = QuarantineRules(burst_claims=8, cap_floor=3, cap_times=0.5)
        record = gathered(happens.store, tmp_path / "out", rules=rules)
    assert record["held"] == {"actor_cap": 1, "burst": 8, "near_duplicate": 1}
    assert record["actors_held"][0]["actor"] == "fast"
    assert "fast said 8 things or more" in record["actors_held"][0]["words"][0]
    assert record["rows"]["judgments"] == 3


def test_two_collections_of_one_place_wait_for_each_other_and_those_beside_each_other_do_not(tmp_path):
    for one, beside in ((tmp_path / "a.jsonl", tmp_path / "b.jsonl"), (tmp_path / "a", tmp_path / "b")):
        with Shelf.at(one).alone():
            with pytest.raises(UserError, match=r"is in use by another process"), Shelf.at(one).alone():
                pass
            with Shelf.at(beside).alone():
                pass
        with Shelf.at(one).alone():
            pass
