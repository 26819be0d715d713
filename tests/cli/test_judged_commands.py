"""compare with a judge and with votes, vote, and sample, as a person and a script use them; every server is a real one."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from judge_server import Behaviour, completion, judge_server
from scipy.stats import binomtest
from small_model import rows, write_rows
from small_run import finished_run
from test_commands import Answer, Invoke, invoke
from test_judge import replies_of
from transformers import GenerationConfig

from evenhand.evaluation.ballot import Ballot, questions_of
from evenhand.evaluation.endpoint import Patience
from evenhand.evaluation.generate import Generation, Reply
from evenhand.evaluation.replies import read_replies, write_replies
from evenhand.service.event import Event, read_event
from evenhand.service.place import open_database
from evenhand.service.store import Store

__all__ = ["invoke"]
REPLIES = Path("rows") / "replies-after.json"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> tuple[Path, Path]:
    """Two runs with the same held-out pairs, and with kept replies of which the second's are the good ones."""
    folder = tmp_path_factory.mktemp("judged")
    runs = tuple(finished_run(folder / name, small_model, seed=seed) for seed, name in enumerate(("earlier", "later")))
    for run, word in zip(runs, ("poor", "good")):
        held_out = [json.loads(line) for line in (run.parent / "held_out.jsonl").read_text().splitlines()]
        asked = read_replies(run / REPLIES).replies[0].prompt[0]
        prompts = [(type(asked)("user", row["prompt"]),) for row in held_out]
        said = tuple(Reply(prompt, f"{word} reply {i}", 5, 12, True, 0.0) for i, prompt in enumerate(prompts))
        write_replies(run / REPLIES, Generation(said, tuple(f"family {i}" for i in range(len(said)))))
    return runs[0], runs[1]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Patience, "wait_seconds", lambda *_: 0.0)


def chosen_by_people(run: Path) -> set[str]:
    return {json.loads(line)["chosen"] for line in (run.parent / "held_out.jsonl").read_text().splitlines()}


def honest(run: Path) -> Behaviour:
    """A judge that knows what people chose, and a good reply from a poor one."""
    liked = chosen_by_people(run)

    def behaviour(body: dict[str, Any], number: int) -> tuple[int, dict[str, str], str]:
        first, _ = replies_of(body)
        return completion("A" if first in liked or first.startswith("good") else "B")

    return behaviour


def compared(invoke: Invoke, trained: tuple[Path, Path], url: str, *more: object) -> Answer:
    return invoke("compare", *trained, "--judge", url, "--judge-model", "m", *more)


def test_a_judge_that_agrees_with_people_tells_the_win_rate(invoke: Invoke, trained: tuple[Path, Path]) -> None:
    with judge_server(honest(trained[0])) as served:
        answer = compared(invoke, trained, served.url, "--json", "--out", "page.html")
        assert answer.code == 0, answer.err
        asked = len(served.bodies)
        again = compared(invoke, trained, served.url)
        assert len(served.bodies) == asked == 2 * (8 + 8)
    (found,) = json.loads(answer.out)["judged"]
    assert found["agreement"]["value"] == found["win_rate"]["value"] == 1.0
    assert (found["agreement"]["n"], found["win_rate"]["n"]) == (8, 8)
    assert found["position_bias"]["value"] == 0.5
    assert found["withheld"] is None
    name = f"m at {served.url}"
    assert f"{name}: win_rate 1.000 [0.676, 1.000] n=8" in again.out.splitlines()
    assert f"{name}: position_bias 0.500" in again.out
    page = Path("page.html").read_text()
    assert f"Judged by {name}" in page
    assert "position_bias" in page


def test_drift_memory_and_speed_stand_in_words_and_on_the_page(invoke: Invoke, trained: tuple[Path, Path]) -> None:
    assert json.loads(invoke("compare", *trained, "--json").out)["drift"] == {"baseline": None, "candidate": None}
    answer = invoke("compare", *trained, "--drift", "--out", "page.html")
    assert answer.code == 0, answer.err
    kept = json.loads(Path("page.json").read_text())
    for side in ("baseline", "candidate"):
        assert kept["drift"][side]["on_new_replies"]["value"] > 0
        assert kept["training"][side]["memory_peak_bytes"] > 0
    for words in ("from its start, nats per token: ", "MiB at the peak, ", "pairs/s, "):
        assert answer.out.count(words) == 2
    page = Path("page.html").read_text()
    for row in ("Drift, own replies", "Drift, the start&#39;s replies", "Training memory", "Training speed"):
        assert row in page
    assert json.loads(invoke("compare", *trained, "--json").out)["drift"] == kept["drift"]  # not measured again


def test_what_became_of_drafts_is_told_where_a_feedback_store_is_given(
    invoke: Invoke, trained: tuple[Path, Path]
) -> None:
    assert invoke("compare", *trained, "--feedback", "nowhere").code == 2
    assert (
        "holds no events; give the folder of `evenhand monitor`" in invoke("compare", *trained, "--feedback", ".").err
    )
    earlier, later = (str(run) for run in trained)  # both folders are called `run`, so they go by their whole names
    store = Store(open_database("events.db"))
    drafts = [event("draft", f"{model}-{i}", model) for model in (earlier, later) for i in range(20)]
    signals = [event("escalation", f"{earlier}-{i}") for i in range(5)]
    signals += [event("edit", f"{later}-{i}") for i in range(2)] + [event("takeover", f"{later}-9")]
    store.append([*drafts, *signals, event("draft", "other", "someone else's")], 1_700_000_000_000)
    store.database.close()
    answer = invoke("compare", *trained, "--feedback", ".", "--tenant", "harbor", "--json", "--out", "page.html")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)["production"]
    assert [found["baseline"][key]["value"] for key in ("escalated", "overridden")] == [0.25, 0.0]
    assert [found["candidate"][key]["value"] for key in ("escalated", "overridden")] == [0.0, 0.15]
    exact = binomtest(3, 20).proportion_ci(method="wilson")
    assert (found["candidate"]["overridden"]["low"], found["candidate"]["overridden"]["high"]) == pytest.approx(
        (exact.low, exact.high), abs=1e-9
    )
    assert "Overridden" in Path("page.html").read_text()
    words = invoke("compare", *trained, "--feedback", "events.db", "--tenant", "harbor").out
    assert (
        f"drafts of {later} in production: 0.0 % [0.0, 16.1] n=20 escalated, 15.0 % [5.2, 36.0] n=20 overridden"
        in words
    )
    nobody = invoke("compare", *trained, "--feedback", ".", "--tenant", "others", "--json")
    assert json.loads(nobody.out)["production"] == {"baseline": None, "candidate": None}


def event(kind: str, draft: str, model: str | None = None) -> Event:
    """An event about a draft, as a bot sends it."""
    sent = {"id": f"{kind} {draft}", "kind": kind, "conversation": "c", "draft": draft, "at": "2026-11-25T09:00:00Z"}
    texts = {"draft": {"text": "It is on its way.", "model": model}, "edit": {"text": "It is.", "sent": "It is not."}}
    return read_event("harbor", json.dumps(sent | texts.get(kind, {})))


def test_a_judge_that_takes_what_comes_first_tells_no_win_rate(invoke: Invoke, trained: tuple[Path, Path]) -> None:
    with judge_server(lambda body, number: completion("A")) as served:
        answer = compared(invoke, trained, served.url)
        assert len(served.bodies) == 16  # the replies were never sent
    assert answer.code == 0
    assert "withheld: the judge is not shown to agree with people more often than chance (0.500" in answer.out
    assert "position_bias 1.000 [0.676, 1.000] n=8" in answer.out


def test_nonsense_is_counted_and_is_no_verdict(invoke: Invoke, trained: tuple[Path, Path]) -> None:
    right = honest(trained[0])

    def now_and_then(body: dict[str, Any], number: int) -> tuple[int, dict[str, str], str]:
        return completion("Both have their merits.") if replies_of(body)[0] == "good reply 3" else right(body, number)

    with judge_server(now_and_then) as served:
        answer = compared(invoke, trained, served.url, "--json")
    (found,) = json.loads(answer.out)["judged"]
    assert (found["win_rate"]["n"], found["unjudged"]) == (7, {"no verdict in the answer": 1})
    assert ["without a verdict, no verdict in the answer", "1"] in found["rows"]


def test_a_judge_that_limits_its_rate_is_asked_again(invoke: Invoke, trained: tuple[Path, Path]) -> None:
    right = honest(trained[0])

    def busy(body: dict[str, Any], number: int) -> tuple[int, dict[str, str], str]:
        return (429, {"retry-after": "0"}, "{}") if number % 3 == 0 else right(body, number)

    with judge_server(busy) as served:
        answer = compared(invoke, trained, served.url, "--json")
        assert len(served.bodies) > 32
    (found,) = json.loads(answer.out)["judged"]
    assert (found["win_rate"]["value"], found["win_rate"]["n"], found["unjudged"]) == (1.0, 8, {})


def test_a_judge_that_is_away_is_counted_and_a_second_run_asks_again(
    invoke: Invoke, trained: tuple[Path, Path]
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
        away = compared(invoke, trained, address, "--json")
    assert away.code == 0
    (found,) = json.loads(away.out)["judged"]
    assert (found["win_rate"], found["agreement"]["n"]) == (None, 0)
    assert found["withheld"] == "the judge gave no verdict on the labelled pairs"
    assert sum(found["unjudged_labelled"].values()) == 8
    assert json.loads(away.out)["verdict"] in ("better", "worse", "undecided")  # what needs no judge is told


@pytest.mark.parametrize("status", [401, 404])
def test_a_judge_that_refuses_every_question_is_a_mistake(
    invoke: Invoke, trained: tuple[Path, Path], status: int
) -> None:
    with judge_server(lambda body, number: (status, {}, "{}")) as served:
        answer = compared(invoke, trained, served.url)
    assert (answer.code, answer.out) == (2, "")
    assert f"error: the endpoint m at {served.url} refuses every question" in answer.err
    assert "put its key into $EVENHAND_JUDGE_KEY" in answer.err


def test_a_judge_needs_a_name_and_replies(invoke: Invoke, trained: tuple[Path, Path], tmp_path: Path) -> None:
    nameless = invoke("compare", *trained, "--judge", "http://127.0.0.1:1/v1")
    assert nameless.code == 2
    assert nameless.err.endswith("answers for several models; say which with --judge-model.\n")
    silent = shutil.copytree(trained[1], tmp_path / "silent")
    (silent / REPLIES).unlink()
    with judge_server(honest(trained[0])) as served:
        answer = compared(invoke, (trained[0], silent), served.url)
        assert served.bodies == []
    assert answer.code == 2
    assert "replies are judged, and a model kept none" in answer.err
    Path("votes.jsonl").write_text('{"prompt": "x"}\n')
    assert invoke("compare", *trained, "--votes", "votes.jsonl").code == 2
    assert "gone.jsonl" in invoke("compare", *trained, "--votes", "gone.jsonl").err


@contextmanager
def voting(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`evenhand vote` as a process of its own, and the address of its page."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "evenhand", "vote", *map(str, arguments), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.communicate()


def page_of(url: str, voter: str) -> str:
    """The page for a voter, as soon as it is served."""
    for _ in range(2400):
        try:
            return httpx.get(f"{url}/", params={"voter": voter}).text
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError("the page was never served")


def field(page: str, name: str) -> str:
    return page.split(f'name="{name}" value="')[1].split('"')[0]


def vote_for_good(url: str, voter: str) -> None:
    page = page_of(url, voter)
    choice = "left" if page.index("good reply") < page.index("poor reply") else "right"
    form = {"voter": voter, "question": field(page, "question"), "choice": choice, "token": field(page, "token")}
    assert httpx.post(f"{url}/vote", data=form).status_code == 303


def test_people_vote_go_on_and_their_votes_are_compared(invoke: Invoke, trained: tuple[Path, Path]) -> None:
    ballot = Ballot(questions_of(*(read_replies(run / REPLIES) for run in trained)), Path("votes.jsonl"))
    first = ballot.next("ann")
    assert first is not None
    ballot.vote("ann", first.question.id, "right" if first.a_first else "left", "2026-11-25T09:00:00+00:00")
    with voting(*trained, "--out", "votes.jsonl", "--json") as (process, url):
        page = page_of(url, "ann")
        assert "1 of 8" in page  # goes on
        assert not any(run.parent.name in page for run in trained)  # nothing says whose replies they are
        for voter in ("ann", "ann", "bob"):
            vote_for_good(url, voter)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "8 questions at" in err
    told = json.loads(out)
    assert (told["a_wins"]["value"], told["a_wins"]["n"]) == (0.0, 4)
    found = json.loads(invoke("compare", *trained, "--votes", "votes.jsonl", "--json").out)["judged"][0]
    assert (found["judge"], found["win_rate"]["value"], found["win_rate"]["n"]) == ("people (votes.jsonl)", 1.0, 4)
    reversed_ = json.loads(invoke("compare", *trained[::-1], "--votes", "votes.jsonl", "--json").out)["judged"][0]
    assert reversed_["win_rate"]["value"] == 0.0
    audited = json.loads(invoke("audit", "votes.jsonl", "--json").out)
    assert (audited["rows_in"], audited["rows_used"], audited["refused"]) == (4, 4, {})


def test_a_vote_needs_two_runs_with_replies_and_a_free_port(invoke: Invoke, trained: tuple[Path, Path]) -> None:
    missing = invoke("vote", trained[0], "nowhere")
    assert missing.code == 2
    assert "replies-after.json is missing: a vote needs two runs that answered prompts" in missing.err
    same = invoke("vote", trained[0], trained[0])
    assert (same.code, same.err) == (
        2,
        "error: there is no prompt that both models answered, and differently; nothing can be voted on.\n",
    )
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = invoke("vote", *trained, "--port", taken.getsockname()[1])
    assert busy.code == 2
    assert busy.err.splitlines()[-1].endswith("choose another --port.")


@pytest.fixture(scope="session")
def talker(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Path:
    """A run whose model ends at one token in eight, as a random one hardly ever would."""
    folder = tmp_path_factory.mktemp("talker")
    shutil.copytree(small_model, folder / "ends")
    GenerationConfig(eos_token_id=[2, *range(350, 400)]).save_pretrained(folder / "ends")
    return finished_run(folder, folder / "ends")


def test_sample_counts_every_prompt_and_says_what_comes_next(invoke: Invoke, talker: Path) -> None:
    Path("own.py").write_text(
        "def vowels(replies):\n    return [float(sum(c in 'aeiou' for c in r)) for r in replies]\n"
    )
    prompts = [{"prompt": row["prompt"]} for row in rows(9, seed=5)]
    write_rows(Path("prompts.jsonl"), [*prompts, {"prompt": "harbor " * 500}])
    common = ("sample", talker, "prompts.jsonl", "--reward", "own.py:vowels", "--max-new-tokens", 24)
    answer = invoke(*common, "--limit", 4, "--out", "few.jsonl", "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert (told["prompts"], told["answers"]) == (4, 16)
    left_out = told["left_out"]
    assert (left_out["held_out"], left_out["too_long"], left_out["beyond_limit"]) == (0, 1, 5)
    assert told["rows"] == 4 - left_out["no_choice"] == len(Path("few.jsonl").read_text().splitlines())
    words = invoke(*common, "--out", "all.jsonl", "-q")
    assert (words.code, words.err) == (0, "")
    first, *_, last = words.out.splitlines()
    assert first.startswith("all.jsonl: ")
    assert "too_long 1, beyond_limit 0" in first
    assert last == "next: evenhand curate all.jsonl --out data/on-policy"


def test_a_judge_that_nobody_measured_is_told_as_such(invoke: Invoke, talker: Path) -> None:
    def first_letter(body: dict[str, Any], number: int) -> tuple[int, dict[str, str], str]:
        first, second = replies_of(body)
        return completion("TIE" if first == second else "A" if first < second else "B")

    write_rows(Path("prompts.jsonl"), [{"prompt": row["prompt"]} for row in rows(4, seed=5)])
    with judge_server(first_letter) as served:
        common = ("sample", talker, "prompts.jsonl", "--judge", served.url, "--judge-model", "m", "--unmeasured")
        answer = invoke(*common, "--keep", "best", "--max-new-tokens", 24, "-q")
    assert answer.code == 0, answer.err
    assert "gain not measured: wins over a prompt's other answers" in answer.out
    assert "agreement of the judge with people: not measured: no pairs that people judged were given" in answer.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--keep", "worst"), "--keep 'worst' is none of pair, ranking, best."),
        ((), "give --reward (a reward run, or file.py:function; it may be given again), or --judge, one of the two."),
        (("--reward", "own.py:vowels", "--n", "1"), "--n 1: an answer is compared with others"),
        (("--reward", "own.py:none"), "own.py"),
        (("--reward", "own.py:vowels", "--unmeasured"), "--unmeasured are of a --judge"),
        (("--judge", "http://127.0.0.1:9/v1", "--judge-model", "m"), "give --labelled FILE, pairs that people judged"),
    ],
)
def test_a_sample_that_makes_no_sense_is_refused(
    invoke: Invoke, talker: Path, arguments: tuple[str, ...], said: str
) -> None:
    Path("own.py").write_text("def vowels(replies):\n    return [0.0 for _ in replies]\n")
    write_rows(Path("prompts.jsonl"), [{"prompt": "Where is my parcel?"}])
    answer = invoke("sample", talker, "prompts.jsonl", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.splitlines()[-1].startswith("error: ")
    assert said in answer.err
    assert not Path("judgments.jsonl").exists()
