"""Critique and revision over a real server: what is asked, what is kept, and what a lost answer costs."""

import json
from pathlib import Path
from typing import Any

import pytest
from judge_server import completion, judge_server

from evenhand.data.schema import Message
from evenhand.errors import DataError
from evenhand.evaluation.endpoint import Endpoint, Patience
from evenhand.online.constitution import Constitution, Principle
from evenhand.online.revision import Pass, Revised, Reviser

STEPS = Principle(id="steps", prefer="x", critique="Name the step that is missing.", revise="Add the step.")
PLAIN = Principle(id="plain", prefer="x", critique="Name the hard words.", revise="Use plain words.")


def silent(done: int, total: int) -> None:
    pass


def reviser_at(url: str, path: Path, passes: int = 1, *principles: Principle) -> Reviser:
    endpoint = Endpoint(url, "m", max_tokens=64, patience=Patience(attempts=1, failures=100))
    return Reviser(endpoint, path, Constitution("shop", principles or (STEPS,), "0" * 64), passes)


def draft(i: int) -> Revised:
    return Revised((Message("system", "Be kind."), Message("user", f"prompt {i}")), f"draft {i}", category="delivery")


def scribe(body: dict[str, Any], number: int) -> tuple[int, dict[str, str], str]:
    """A critique that says how many turns it read, and a revision that says what it was told."""
    turns = body["messages"]
    if turns[-1]["content"].startswith("Criticise"):
        return completion(f"critique of {turns[-2]['content']}")
    return completion(f"better {turns[-4]['content']}; {turns[-2]['content']}")


def test_a_reply_is_criticised_and_then_written_again(tmp_path: Path) -> None:
    with judge_server(scribe) as served:
        (one,) = reviser_at(served.url, tmp_path / "j.jsonl").revise([draft(0)], silent)
        critique, revision = (body["messages"] for body in served.bodies)
    assert one.passes == (Pass("steps", "critique of draft 0", "better draft 0; critique of draft 0"),)
    assert [turn["role"] for turn in critique] == ["system", "user", "assistant", "user"]
    assert critique[-1]["content"] == "Criticise your last reply. Name the step that is missing."
    assert revision[:4] == critique
    assert revision[-1]["content"].startswith("Add the step. Write only the rewritten reply")
    row = one.row("m by shop", "demonstration")
    assert row is not None
    assert row["response"] == one.reply
    assert (row["annotator"], row["category"]) == ("m by shop", "delivery")


def test_later_passes_rewrite_what_the_earlier_wrote_by_principles_of_their_own(tmp_path: Path) -> None:
    with judge_server(scribe) as served:
        found = reviser_at(served.url, tmp_path / "j.jsonl", 2, STEPS, PLAIN).revise(
            [draft(i) for i in range(8)], silent
        )
        asked = len(served.bodies)
        again = reviser_at(served.url, tmp_path / "j.jsonl", 2, STEPS, PLAIN).revise(
            [draft(i) for i in range(8)], silent
        )
        assert len(served.bodies) == asked == 32
    assert again == found
    assert all(one.passes[1].critique == f"critique of {one.passes[0].reply}" for one in found)
    assert {p.principle for one in found for p in one.passes} == {"steps", "plain"}


def test_a_lost_answer_costs_its_own_draft_alone(tmp_path: Path) -> None:
    def fails(body: dict[str, Any], number: int) -> tuple[int, dict[str, str], str]:
        content = body["messages"][1]["content"]
        if content == "prompt 1":
            return 500, {}, "{}"
        if content == "prompt 2":
            return completion("  ")
        return scribe(body, number)

    with judge_server(fails) as served:
        found = reviser_at(served.url, tmp_path / "j.jsonl").revise([draft(i) for i in range(4)], silent)
    assert [one.lost is None for one in found] == [True, False, False, True]
    assert found[2].lost == "an answer without words"
    assert found[1].passes == ()


def test_a_reply_that_was_cut_or_only_thought_is_no_demonstration(tmp_path: Path) -> None:
    def long(body: dict[str, Any], number: int) -> tuple[int, dict[str, str], str]:
        status, headers, text = scribe(body, number)
        value = json.loads(text)
        said = value["choices"][0]
        said["message"]["content"] = "<think>Hm.</think>" + said["message"]["content"]
        if body["messages"][1]["content"] == "prompt 1":
            said["finish_reason"] = "length"
        return status, headers, json.dumps(value)

    with judge_server(long) as served:
        reviser = reviser_at(served.url, tmp_path / "j.jsonl")
        found = reviser.revise([draft(0), draft(1)], silent)
        assert reviser.revise([draft(0), draft(1)], silent) == found  # as the transcript keeps them
    assert found[0].passes == (Pass("steps", "critique of draft 0", "better draft 0; critique of draft 0"),)
    assert (found[1].passes, found[1].lost) == ((), "cut off at the limit of tokens")


def test_a_pair_is_the_last_version_over_its_draft_and_none_where_nothing_changed() -> None:
    rows = [
        Revised((Message("user", f"p{i}"),), "draft", (Pass("steps", "c", "better"),)).row("m", "pair")
        for i in range(40)
    ]
    assert all(row is not None and row["answer_" + row["verdict"]] == "better" for row in rows)
    assert {row["verdict"] for row in rows if row} == {"a", "b"}
    same = Revised((Message("user", "p"),), "draft", (Pass("steps", "c", "draft "),))
    assert same.row("m", "pair") is None
    assert same.row("m", "demonstration") is not None


def test_a_constitution_that_rewrites_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no principle with `critique` and `revise`"):
        reviser_at("http://127.0.0.1:1/v1", tmp_path / "j.jsonl", 1, Principle(id="a", prefer="x"))
