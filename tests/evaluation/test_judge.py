"""A judge in both orders: what it says counts once each way, and what is no verdict counts nowhere."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from judge_server import completion, judge_server
from scipy.stats import binomtest

from evenhand.data.schema import Message, PreferencePair
from evenhand.evaluation.endpoint import Endpoint, Patience
from evenhand.evaluation.judge import EndpointJudge, GapJudge, Question, Ruling, verdict_in
from evenhand.evaluation.winrate import Judged, agreement_first, judged
from evenhand.online.constitution import Constitution, Principle
from evenhand.online.feedback import CANDIDATES, ConstitutionJudge
from evenhand.online.revision import Pass, Revised, Reviser


def silent(done, total):
    pass


def questions(count):
    return [Question(f"q{i}", (Message("user", f"prompt {i}"),), f"good {i}", f"bad {i}") for i in range(count)]


def judge_at(url, path, **settings):
    patience = Patience(attempts=2, first_wait_seconds=0.01)
    return EndpointJudge(Endpoint(url, "m", patience=patience, **settings), path)


def replies_of(body):
    text = body["messages"][-1]["content"]
    first, second = text.split("Reply A:\n\n")[1].split("\n\nReply B:\n\n")
    return first, second.split("\n\nWhich reply")[0]


def honest(body, number):
    return completion("A" if replies_of(body)[0].startswith("good") else "B")


def test_an_honest_judge_is_whole_consistent_and_without_bias(tmp_path):
    with judge_server(honest) as served:
        found = judged(judge_at(served.url, tmp_path / "j.jsonl"), questions(12), silent)
        assert len(served.bodies) == 24
        assert {replies_of(body)[0][:3] for body in served.bodies} == {"goo", "bad"}
    assert set(found.rulings) == {Ruling("a", "a")}
    assert (found.win_rate.value, found.position_bias.value, found.consistent.value) == (1.0, 0.5, 1.0)
    exact = binomtest(12, 12).proportion_ci(method="wilson")
    assert (found.win_rate.low, found.win_rate.high) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_a_judge_that_takes_what_comes_first_is_found_out(tmp_path):
    with judge_server(lambda body, number: completion("A")) as served:
        found = judged(judge_at(served.url, tmp_path / "j.jsonl"), questions(12), silent)
    assert found.win_rate.value == 0.5
    assert found.position_bias.value == 1.0
    assert found.position_bias.low > 0.5
    assert found.consistent.value == 0.0


def test_nonsense_and_silence_are_no_verdicts_and_are_counted(tmp_path):
    def mixed(body, number):
        place = int(body["messages"][-1]["content"].split("prompt ")[1].split()[0])
        return [completion("I like both!"), completion(None), completion("TIE"), honest(body, number)][place % 4]

    with judge_server(mixed) as served:
        found = judged(judge_at(served.url, tmp_path / "j.jsonl"), questions(8), silent)
    assert found.unjudged == {"no verdict in the answer": 4}
    assert found.a_wins.value_B.tolist() == [0.5, 1.0, 0.5, 1.0]
    assert found.win_rate.n == 4


def test_equal_replies_are_a_tie_that_is_not_asked(tmp_path):
    same = [Question("q", (Message("user", "p"),), "yes", "yes")]
    with judge_server(honest) as served:
        assert judged(judge_at(served.url, tmp_path / "j.jsonl"), same, silent).rulings == (Ruling("tie", "tie"),)
        assert served.bodies == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A or B",
        "Both are good",
        "AB",
        "[[A]] no, [[B]]",
        "I think A is verbose",
        "Answer: maybe",
        "1",
        "A\nB",
        "atie",
    ],
)
def test_words_that_state_no_verdict(text):
    assert verdict_in(text) is None


def pairs(count):
    return [
        PreferencePair(f"p{i}", i, f"g{i}", (Message("user", f"prompt {i}"),), f"good {i}", f"bad {i}")
        for i in range(count)
    ]


def test_the_win_rate_is_withheld_while_agreement_includes_chance(tmp_path):
    with judge_server(honest) as served:
        judge = judge_at(served.url, tmp_path / "j.jsonl")
        few = agreement_first(judge, pairs(3), questions(5), silent)  # 3 of 3 right: Wilson's lower end is 0.44
        asked_for_few = len(served.bodies)
        enough = agreement_first(judge, pairs(8), questions(5), silent)
    assert asked_for_few == 6  # the replies were never sent
    assert few.json()["win_rate"] is None
    assert "chance" in few.withheld
    assert enough.withheld is None
    assert enough.json()["win_rate"]["value"] == 1.0
    assert "canary" not in json.dumps(enough.json())


def test_a_judge_that_never_rules_is_withheld(tmp_path):
    with judge_server(lambda body, number: completion("hm")) as served:
        found = agreement_first(judge_at(served.url, tmp_path / "j.jsonl"), pairs(4), questions(2), silent)
    assert "no verdict" in found.withheld


def test_families_widen_the_win_rate():
    same = [Question(f"q{i}", (), "x", "y", f"family {i // 5}") for i in range(50)]
    rulings = tuple(Ruling("a", "a") if i // 5 % 2 else Ruling("b", "b") for i in range(50))
    by_family = Judged(tuple(same), rulings).win_rate
    alone = Judged(tuple(questions(50)), rulings).win_rate
    assert by_family.value == alone.value == 0.5
    assert by_family.high - by_family.low > 1.8 * (alone.high - alone.low)


def test_a_scorer_judges_by_the_sign_of_its_gap():
    judge = GapJudge("scorer", lambda given: np.array([0.5, -0.1, 0.0, np.nan])[: len(given)])
    found = judged(judge, questions(4), silent)
    assert [ruling.a_first for ruling in found.rulings] == ["a", "b", "tie", None]
    assert found.unjudged == {"cannot be scored": 1}


def model_that_says_a(folder: Path) -> Path:
    """A tiny model whose every reply is "A": after a newline comes A, after A the end of the turn."""
    from small_model import small_llama, small_tokenizer

    model, tokenizer = small_llama(), small_tokenizer()
    newline, letter = (tokenizer.encode(text, add_special_tokens=False)[-1] for text in ("\n", "A"))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight[newline] = torch.eye(32)[0]
        model.model.embed_tokens.weight[letter] = torch.eye(32)[1]
        model.lm_head.weight.zero_()
        model.lm_head.weight[letter, 0] = 10.0
        model.lm_head.weight[tokenizer.eos_token_id, 1] = 10.0
    model.config.max_position_embeddings = 4096
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def real_server(tmp_path_factory):
    """`transformers serve` on a free port of loopback, until the module's last test."""
    pytest.importorskip("uvicorn", reason="transformers serve needs the extra [serve]")
    folder = model_that_says_a(tmp_path_factory.mktemp("judge") / "says-a")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("transformers")
    if not program.exists():
        pytest.skip("no `transformers` program beside this Python")
    command = [sys.executable, str(program), "serve", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    log = (folder.parent / "serve.log").open("wb")
    process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    try:
        for _ in range(600):
            if process.poll() is not None:
                pytest.fail((folder.parent / "serve.log").read_text()[-2000:])
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=1.0).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1", str(folder)
    finally:
        process.terminate()
        process.wait(20)
        log.close()


def test_a_real_server_judges_both_orders_and_its_bias_keeps_the_win_rate_back(real_server, tmp_path):
    url, model = real_server
    judge = EndpointJudge(Endpoint(url, model, max_tokens=4), tmp_path / "kept.jsonl")
    found = agreement_first(judge, pairs(6), questions(3), silent)
    assert set(found.labelled.rulings) == {Ruling("a", "b")}
    assert found.agreement.value == 0.5
    assert found.labelled.position_bias.value == 1.0
    assert found.json()["win_rate"] is None
    kept = [json.loads(line) for line in (tmp_path / "kept.jsonl").read_text().splitlines()]
    assert len(kept) == 12
    assert {row["reply"] for row in kept} == {"A"}


def test_a_real_server_compares_and_revises_by_a_constitution(real_server, tmp_path):
    url, model = real_server
    short = Principle(id="short", prefer="Prefer the shorter.", critique="What is too long?", revise="Shorten it.")
    constitution = Constitution("shop", (short,), "0" * 64)
    endpoint = Endpoint(url, model, max_tokens=4, leading=CANDIDATES)
    (found,) = ConstitutionJudge(endpoint, tmp_path / "kept.jsonl", constitution).rule(questions(1), silent)
    assert found == Ruling("a", "b")  # it tells no probabilities, and is asked without
    draft = Revised((Message("user", "Where is it?"),), "On its way, I think.")
    (revised,) = Reviser(endpoint, tmp_path / "kept.jsonl", constitution).revise([draft], silent)
    assert revised.passes == (Pass("short", "A", "A"),)
