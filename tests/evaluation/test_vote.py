"""Blind votes: the order is hidden and fixed, votes are judgments, and the page works in a real browser with keys alone."""

import json
import socket
import threading
import time

import httpx
import pytest
import uvicorn
from fastapi.testclient import TestClient

from evenhand.data.read import read_judgments
from evenhand.data.schema import Message
from evenhand.errors import DataError
from evenhand.evaluation.ballot import Ballot, questions_of, votes_of
from evenhand.evaluation.generate import Generation, Reply
from evenhand.evaluation.judge import Question
from evenhand.evaluation.vote_app import vote_app

XSS = "<script>document.title='x'</script><img src=x onerror=\"document.title='x'\">"


def generation(name: str, count: int = 6) -> Generation:
    replies = tuple(
        Reply((Message("user", f"question {i} {XSS}"),), f"{name} {i} {XSS}", 5, 9, True, 0.0) for i in range(count)
    )
    return Generation(replies, (None,) * count)


@pytest.fixture
def ballot(tmp_path):
    return Ballot(questions_of(generation("first"), generation("second")), tmp_path / "votes.jsonl")


def test_the_order_is_random_over_voters_and_the_same_for_each(ballot):
    sides = {(v, q): ballot.shown(v, q).a_first for v in map(str, range(40)) for q in ballot.questions}
    assert 90 < sum(sides.values()) < 150
    assert all(ballot.shown(v, q).a_first == first for (v, q), first in sides.items())
    assert len({tuple(ballot.next(v).question.id for v in (str(i),)) for i in range(40)}) > 3


def test_votes_are_judgments_that_name_voter_position_and_time(ballot):
    names = list(ballot.questions)
    for voter in ("ann", "bob"):
        for name in names:
            choice = "tie" if name == names[0] else "left" if ballot.shown(voter, name).a_first else "right"
            assert ballot.vote(voter, name, choice, "2026-11-25T06:00:00+00:00")
            assert not ballot.vote(voter, name, choice, "2026-11-25T06:00:00+00:00")
    judgments = read_judgments(ballot.path).judgments
    assert len(judgments) == 12
    assert {j.verdict for j in judgments} == {"a", "tie"}
    assert {j.annotator for j in judgments} == {"ann", "bob"}
    assert all(j.shown_first in ("a", "b") and j.time == "2026-11-25T06:00:00+00:00" for j in judgments)
    rate = votes_of(ballot.path).win_rate
    assert rate.value == pytest.approx(11 / 12)
    assert rate.n == 12


def test_a_second_start_goes_on_and_another_file_is_refused(ballot, tmp_path):
    first = ballot.next("ann")
    ballot.vote("ann", first.question.id, "left", "t")
    again = Ballot(list(ballot.questions.values()), ballot.path)
    assert again.done("ann") == 1
    assert again.next("ann").question.id != first.question.id
    (tmp_path / "other.jsonl").write_text('{"prompt": "x"}\n')
    with pytest.raises(DataError, match="no file of votes"):
        Ballot([], tmp_path / "other.jsonl")
    with pytest.raises(DataError, match="nothing can be voted on"):
        questions_of(generation("same"), generation("same"))


def test_texts_with_line_breaks_of_unicode_do_not_break_the_file_of_votes(tmp_path):
    texts = {"q1": "one\u2028two", "q2": "one\u2029two", "q3": "one\x85two"}
    questions = [Question(name, (Message("user", "Why?"),), text, "other") for name, text in texts.items()]
    first = Ballot(questions, tmp_path / "votes.jsonl")
    for name in texts:
        assert first.vote("ann", name, "left", "t")
    assert Ballot(questions, first.path).done("ann") == 3
    assert [j.answer_a for j in read_judgments(first.path).judgments] == list(texts.values())


def test_forged_hosts_forms_and_names_are_refused(ballot):
    client = TestClient(vote_app(ballot), base_url="http://127.0.0.1")
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400
    name = next(iter(ballot.questions))
    assert client.post("/vote", data={"voter": "ann", "question": name, "choice": "left"}).status_code == 403
    token = client.get("/?voter=ann").text.split('name="token" value="')[1].split('"')[0]
    for wrong in ({"question": "none"}, {"choice": "both"}, {"voter": "<b>"}):
        form = {"voter": "ann", "question": name, "choice": "left", "token": token} | wrong
        assert client.post("/vote", data=form).status_code == 400
    assert client.post("/vote", content=b"token=" + b"x" * 9000).status_code == 403
    assert not ballot.path.exists()
    page = client.get("/?voter=ann")
    assert "<script>document" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_a_browser_votes_with_keys_alone_and_runs_no_reply(ballot):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(vote_app(ballot), host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        for _ in range(100):
            try:
                httpx.get(f"http://127.0.0.1:{port}/")
                break
            except httpx.TransportError:
                time.sleep(0.05)
        with playwright.sync_playwright() as driver:
            try:
                browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
            except playwright.Error as error:
                pytest.skip(f"no chromium: {error}")
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{port}/")
            page.keyboard.type("ann")
            page.keyboard.press("Enter")
            for key in ("1", "2", "0", "ArrowLeft", "ArrowRight", "ArrowDown"):
                page.wait_for_selector("#left")
                with page.expect_navigation():
                    page.keyboard.press(key)
            page.wait_for_selector("text=Done. Thank you.")
            assert page.title() != "x"
            browser.close()
    finally:
        server.should_exit = True
        thread.join(10)
    rows = [json.loads(line) for line in ballot.path.read_text().splitlines()]
    assert len(rows) == 6
    assert [row["verdict"] for row in rows].count("tie") == 2
    for row, key in zip(rows, ("left", "right")):
        assert row["verdict"] == ("a" if (key == "left") == (row["shown_first"] == "a") else "b")
