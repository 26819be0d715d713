import json
import socket
import time
from pathlib import Path

import pytest
from judge_server import completion, judge_server

from evenhand.data.schema import Message
from evenhand.errors import DataError, UserError
from evenhand.evaluation.endpoint import Endpoint, Patience, ask_all
from evenhand.evaluation.transcript import transcript

FAST = Patience(timeout_seconds=5.0, attempts=3, first_wait_seconds=0.01, longest_wait_seconds=0.3, failures=3)
KEY = "sk-canary-4417"


def asked(texts):
    return [(Message("user", text),) for text in texts]


def ask(url, texts, path, **settings):
    endpoint = Endpoint(url, "m", patience=settings.pop("patience", FAST), **settings)
    with transcript(path) as kept:
        return ask_all(endpoint, asked(texts), kept)


def lines(path: Path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def echo(body, number):
    return completion(f"echo {body['messages'][0]['content']}")


def test_answers_come_in_order_each_question_is_asked_once_and_a_second_run_asks_nothing(tmp_path):
    texts = [f"q{i}" for i in range(9)] + ["q3"]
    with judge_server(echo) as served:
        found = ask(served.url, texts, tmp_path / "t.jsonl")
        assert [answer.text for answer in found] == [f"echo {text}" for text in texts]
        assert len(served.bodies) == 9
        assert all(
            body["temperature"] == 0 and body["seed"] == 0 and body["max_tokens"] == 64 for body in served.bodies
        )
        again = ask(served.url, [*texts, "new"], tmp_path / "t.jsonl")
        assert [answer.text for answer in again[:-1]] == [answer.text for answer in found]
        assert len(served.bodies) == 10
    assert len(lines(tmp_path / "t.jsonl")) == 10


@pytest.mark.parametrize(
    "trouble",
    [
        (429, {"retry-after": "0.05"}, "{}"),
        (429, {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, "{}"),
        (500, {}, "oops"),
        (503, {}, ""),
        (200, {"content-type": "text/html"}, "<html>a proxy's page</html>"),
        (200, {"content-type": "application/json"}, "{not json"),
        (200, {"content-type": "application/json"}, '{"choices": []}'),
    ],
    ids=["rate limit", "rate limit with a date", "500", "503", "html", "no json", "no choices"],
)
def test_what_may_pass_is_tried_again_and_counted(tmp_path, trouble):
    with judge_server(lambda body, number: trouble if number <= 2 else echo(body, number)) as served:
        (answer,) = ask(served.url, ["q"], tmp_path / "t.jsonl")
        assert len(served.bodies) == 3
    assert (answer.text, answer.attempts, answer.error) == ("echo q", 3, None)
    assert lines(tmp_path / "t.jsonl")[0]["attempts"] == 3


def test_a_rate_limit_s_own_wait_is_kept(tmp_path):
    with judge_server(lambda b, n: (429, {"retry-after": "0.25"}, "{}") if n == 1 else echo(b, n)) as served:
        began = time.monotonic()
        ask(served.url, ["q"], tmp_path / "t.jsonl")
        assert time.monotonic() - began >= 0.25


def test_a_question_without_an_answer_does_not_stop_the_others_and_is_asked_again_next_time(tmp_path):
    def bad_for_one(body, number):
        return (500, {}, "oops") if body["messages"][0]["content"] == "q1" else echo(body, number)

    with judge_server(bad_for_one) as served:
        found = ask(served.url, ["q0", "q1", "q2"], tmp_path / "t.jsonl")
    assert [answer.text for answer in found] == ["echo q0", None, "echo q2"]
    assert found[1].attempts == 3
    assert "InternalServerError" in found[1].error
    with judge_server(echo) as served:
        again = ask(served.url, ["q0", "q1", "q2"], tmp_path / "t.jsonl")
        # The address is part of what was asked: another port is another judge.
        assert len(served.bodies) == 3
        assert [answer.text for answer in again] == ["echo q0", "echo q1", "echo q2"]


def test_a_question_that_is_refused_for_good_is_not_tried_again(tmp_path):
    with judge_server(lambda body, number: (400, {}, '{"error": "too long"}')) as served:
        (answer,) = ask(served.url, ["q"], tmp_path / "t.jsonl")
        assert len(served.bodies) == 1
    assert answer.text is None
    assert answer.attempts == 1


def test_a_slow_endpoint_is_given_up_after_its_time(tmp_path):
    def slow(body, number):
        time.sleep(0.6 if number == 1 else 0)
        return echo(body, number)

    patience = Patience(timeout_seconds=0.2, attempts=2, first_wait_seconds=0.01)
    with judge_server(slow) as served:
        (answer,) = ask(served.url, ["q"], tmp_path / "t.jsonl", patience=patience)
    assert (answer.text, answer.attempts) == ("echo q", 2)


def test_an_endpoint_that_is_away_is_left_alone_after_a_few_questions(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        found = ask(url, [f"q{i}" for i in range(40)], tmp_path / "t.jsonl", at_once=2)
    assert all(answer.text is None for answer in found)
    assert sum(answer.attempts == 0 for answer in found) >= 30
    assert all(row["reply"] is None for row in lines(tmp_path / "t.jsonl"))
    assert len(lines(tmp_path / "t.jsonl")) < 10


def test_the_key_is_sent_and_stands_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.setenv("EVENHAND_JUDGE_KEY", KEY)

    def tells_the_key(body, number):
        return 400, {"content-type": "application/json"}, json.dumps({"error": f"bad request from {KEY}"})

    with judge_server(tells_the_key) as served:
        (answer,) = ask(served.url, ["q"], tmp_path / "t.jsonl")
        assert served.headers[0]["authorization"] == f"Bearer {KEY}"
        ask(served.url.replace("//", "//ann:hidden@"), ["q"], tmp_path / "t.jsonl")
        assert served.headers[1]["authorization"].startswith("Basic ")  # as a URL with a password asks for
    text = (tmp_path / "t.jsonl").read_text()
    for secret in (KEY, "hidden"):
        assert secret not in text + str(answer) + repr(Endpoint("http://127.0.0.1/v1", "m"))


def test_a_refused_key_stops_with_one_sentence_that_does_not_tell_it(tmp_path, monkeypatch):
    monkeypatch.setenv("EVENHAND_JUDGE_KEY", KEY)
    refusal = 401, {"content-type": "application/json"}, json.dumps({"error": {"message": f"Incorrect API key: {KEY}"}})
    with judge_server(lambda body, number: refusal) as served:
        with pytest.raises(UserError, match=r"refuses every question.*EVENHAND_JUDGE_KEY") as raised:
            ask(served.url, ["q"], tmp_path / "t.jsonl")
        assert len(served.bodies) == 1
    assert KEY not in str(raised.value)


def test_a_transcript_cut_short_goes_on_and_another_file_is_refused(tmp_path):
    path = tmp_path / "t.jsonl"
    with judge_server(echo) as served:
        ask(served.url, ["q0", "q1"], path)
        whole = path.read_bytes()
        path.write_bytes(whole[:-20])
        again = ask(served.url, ["q0", "q1"], path)
        assert len(served.bodies) == 3
        assert {answer.text for answer in again} == {"echo q0", "echo q1"}
        assert path.read_bytes().startswith(whole[:-20])  # appended to, never rewritten
        with transcript(path), pytest.raises(UserError, match="in use"), transcript(path):
            pass
    path.write_text('{"prompt": "x"}\n')
    with pytest.raises(DataError, match="no transcript"), transcript(path):
        pass
