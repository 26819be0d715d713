"""What a judge says by a constitution: both orders, probabilities, several principles, and what becomes a judgment."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from judge_server import judge_server

from evenhand.data.schema import Judgment, Message
from evenhand.evaluation.endpoint import Endpoint, Patience
from evenhand.evaluation.judge import Question, Ruling
from evenhand.evaluation.winrate import judged
from evenhand.online.constitution import Constitution, Principle
from evenhand.online.feedback import (
    CANDIDATES,
    ConstitutionJudge,
    as_written,
    by_principle,
    judgment_rows,
    preference_of,
)

SHORT = Principle(id="short", prefer="Prefer the shorter reply.", weight=1.0)
POLITE = Principle(id="polite", prefer="Prefer the reply with a please.", weight=3.0)
BOTH = Constitution("shop", (SHORT, POLITE), "0" * 64)


def silent(done: int, total: int) -> None:
    pass


def question(i: int, a: str, b: str) -> Question:
    return Question(f"q{i}", (Message("user", f"prompt {i}"),), a, b)


def judge_at(url: str, path: Path, every: bool = False) -> ConstitutionJudge:
    patience = Patience(attempts=2, first_wait_seconds=0.01)
    return ConstitutionJudge(Endpoint(url, "m", leading=CANDIDATES, patience=patience), path, BOTH, every)


def replies_in(body: dict[str, Any]) -> tuple[str, str]:
    first, second = body["messages"][-1]["content"].split("Reply A:\n\n")[1].split("\n\nReply B:\n\n")
    return first, second.split("\n\nWhich reply")[0]


def better(body: dict[str, Any]) -> str:
    """What the principle in the body says of the replies in it."""
    first, second = replies_in(body)
    if SHORT.prefer in body["messages"][0]["content"]:
        return "A" if len(first) < len(second) else "B"
    return "A" if "please" in first else "B" if "please" in second else "TIE"


def answered(word: str, candidates: dict[str, float] | None) -> tuple[int, dict[str, str], str]:
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": word}}
    if candidates:
        top = [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in candidates.items()]
        choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return 200, {"content-type": "application/json"}, json.dumps(body)


def by_words(body: dict[str, Any], number: int) -> tuple[int, dict[str, str], str]:
    return answered(better(body), None)


def asked() -> list[Question]:
    return [question(i, "Wait, please, a little longer." + "!" * i, "Wait.") for i in range(24)]


def test_each_question_is_judged_by_one_principle_drawn_for_it(tmp_path: Path) -> None:
    with judge_server(by_words) as served:
        judge = judge_at(served.url, tmp_path / "j.jsonl")
        found = judged(judge, asked(), silent)
        assert len(served.bodies) == 48
    for one, ruling in zip(found.questions, found.rulings):
        (principle,) = judge.principles(one)
        assert ruling == (Ruling("a", "a") if principle is POLITE else Ruling("b", "b"))
    parts = by_principle(judge, found)
    assert sum(len(part.questions) for part in parts.values()) == 24
    assert (parts["polite"].win_rate.value, parts["short"].win_rate.value) == (1.0, 0.0)
    other_order = [question(i, one.answer_b, one.answer_a) for i, one in enumerate(asked())]
    assert [judge.principles(one) for one in other_order] == [judge.principles(one) for one in asked()]


def test_every_principle_has_its_weight(tmp_path: Path) -> None:
    with judge_server(by_words) as served:
        judge = judge_at(served.url, tmp_path / "j.jsonl", every=True)
        (found,) = judge.rule([question(0, "Wait, please.", "No.")], silent)
        assert found == Ruling("a", "a")  # 3 of 4 for a
        (tied,) = judge.rule([question(1, "A longer one.", "Short.")], silent)
        assert tied == Ruling("b", "b")  # polite ties at one half: 3/8 for a
        assert by_principle(judge, judged(judge, asked()[:1], silent)) == {}


def test_one_principle_without_a_verdict_leaves_the_question_without_one(tmp_path: Path) -> None:
    def partly(body: dict[str, Any], number: int) -> tuple[int, dict[str, str], str]:
        return answered("Both!" if SHORT.prefer in body["messages"][0]["content"] else better(body), None)

    with judge_server(partly) as served:
        judge = judge_at(served.url, tmp_path / "j.jsonl", every=True)
        (found,) = judge.rule([question(0, "Wait, please.", "No.")], silent)
    assert not found.is_whole
    assert found.why == "no verdict in the answer"
    assert preference_of(found) is None


@pytest.mark.parametrize(("mass", "whole"), [(1.0, True), (0.5, True), (0.2, False)])
def test_a_judge_that_rambles_is_taken_at_its_first_token(mass: float, whole: bool, tmp_path: Path) -> None:
    def leaning(body: dict[str, Any], number: int) -> tuple[int, dict[str, str], str]:
        first = 0.26 if replies_in(body)[0] == "good" else 0.24
        return answered(
            "A:\n\nA:\n\nBoth of them", {"A": first * mass, "B": 0.02 * mass, "The": 1 - (first + 0.02) * mass}
        )

    with judge_server(leaning) as served:
        (found,) = judge_at(served.url, tmp_path / "j.jsonl").rule([question(0, "good", "bad")], silent)
    assert found.is_whole == whole
    if whole:  # the first reply each time, and a bit more so where that is the good one
        assert (found.a_first, found.b_first) == ("a", "b")
        assert found.preference == pytest.approx((0.26 / 0.28 + 1 - 0.24 / 0.26) / 2)
        assert as_written(found, 0.5) == Ruling("a", "a", preference=found.preference)
    else:
        assert found.why == "no verdict in the answer"


def test_words_outweigh_what_little_the_first_token_says(tmp_path: Path) -> None:
    def worded(body: dict[str, Any], number: int) -> tuple[int, dict[str, str], str]:
        return answered("Reply B is better", {"Reply": 0.7, "A": 0.3})

    with judge_server(worded) as served:
        (found,) = judge_at(served.url, tmp_path / "j.jsonl").rule([question(0, "good", "bad")], silent)
    assert found == Ruling("b", "a")


def test_probabilities_of_both_orders_are_averaged(tmp_path: Path) -> None:
    def sure_of_the_first(body: dict[str, Any], number: int) -> tuple[int, dict[str, str], str]:
        assert (body["logprobs"], body["top_logprobs"]) == (True, CANDIDATES)
        if replies_in(body)[0] == "good":
            return answered("A", {"A": 0.8, "B": 0.1, "TIE": 0.1})
        return answered("A", {"A": 0.5, " b": 0.3, "The": 0.2})

    with judge_server(sure_of_the_first) as served:
        judge = judge_at(served.url, tmp_path / "j.jsonl")
        (found,) = judge.rule([question(0, "good", "bad")], silent)
        first, second = 0.85, 0.5 / 0.8
        assert found.preference == pytest.approx((first + 1 - second) / 2)
        assert (found.a_first, found.b_first) == ("a", "b")
        again = judge_at(served.url, tmp_path / "j.jsonl").rule([question(0, "good", "bad")], silent)
        assert again == [found]  # from the transcript, probabilities included
        assert len(served.bodies) == 2


def test_probabilities_of_an_answer_that_begins_otherwise_say_nothing(tmp_path: Path) -> None:
    def wordy(body: dict[str, Any], number: int) -> tuple[int, dict[str, str], str]:
        better_one = "B" if replies_in(body)[0] == "good" else "A"  # the other reply, in both orders
        return answered(f"Reply {better_one} is better", {"Reply": 0.95, "A": 0.03, "B": 0.01})

    with judge_server(wordy) as served:
        judge = judge_at(served.url, tmp_path / "j.jsonl")
        said = judged(judge, [question(0, "good", "bad")], silent)
        (row,) = judgment_rows(judge, [(said.questions[0], Judgment("q0", 0, "0", (), "", "", "a"))], said, 0.5)
    assert said.rulings == (Ruling("b", "b"),)
    assert (row["verdict"], row["preference"]) == ("b", 0.0)


def test_agreement_is_of_what_is_written() -> None:
    leaning = Ruling("a", "b", preference=0.65)  # the orders differ, the probabilities lean to a
    assert as_written(leaning, 0.5) == Ruling("a", "a", preference=0.65)
    assert as_written(leaning, 0.7) == Ruling("tie", "tie", preference=0.65)
    assert as_written(Ruling("a", "b"), 0.5) == Ruling("tie", "tie")
    assert as_written(Ruling(None, "b", "no answer"), 0.5) == Ruling(None, "b", "no answer")


def test_an_endpoint_that_refuses_probabilities_is_asked_without(tmp_path: Path) -> None:
    def refuses(body: dict[str, Any], number: int) -> tuple[int, dict[str, str], str]:
        if "logprobs" in body or "top_logprobs" in body:
            return 422, {"content-type": "application/json"}, '{"detail": "unexpected logprobs"}'
        return by_words(body, number)

    with judge_server(refuses) as served:
        found = judged(judge_at(served.url, tmp_path / "j.jsonl"), asked()[:6], silent)
    assert all(ruling.is_whole and ruling.preference is None for ruling in found.rulings)


def test_judgments_have_the_judge_as_annotator_and_ties_within_confidence(tmp_path: Path) -> None:
    shares = {"good": 0.95, "fair": 0.6, "bad": 0.05}

    def graded(body: dict[str, Any], number: int) -> tuple[int, dict[str, str], str]:
        first, second = (shares[reply] for reply in replies_in(body))
        p = first / (first + second)
        return answered("A" if p > 0.5 else "B", {"A": p, "B": 1 - p})

    source = Judgment("q0", 0, "0", (), "", "", "a", category="delivery")
    with judge_server(graded) as served:
        judge = judge_at(served.url, tmp_path / "j.jsonl")
        said = judged(judge, [question(0, "bad", "good"), question(1, "good", "fair")], silent)
        pairs = [(one, source) for one in said.questions]
        sure = judgment_rows(judge, pairs, said, 0.5)
        careful = judgment_rows(judge, pairs, said, 0.7)
    assert [row["verdict"] for row in sure] == ["b", "a"]
    assert [row["verdict"] for row in careful] == ["b", "tie"]
    assert sure[1]["preference"] == pytest.approx(0.95 / 1.55)
    assert sure[0]["annotator"] == f"m at {served.url} by shop"
    assert sure[0]["category"] == "delivery"
    assert sure[0]["principles"] in (["short"], ["polite"])
