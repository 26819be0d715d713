"""On-policy judgments: clean of held-out prompts, scored as they should be, resumed, and taken by curate."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from judge_server import completion, judge_server
from small_model import listening, rows, write_rows
from small_run import finished_run
from test_reward_run import reward_recipe
from transformers import GenerationConfig

from evenhand.data.preparation import Wanted, prepare
from evenhand.errors import DataError, JudgeError, ModelError, NonFiniteError, UserError
from evenhand.evaluation.endpoint import Endpoint, Patience
from evenhand.evaluation.interval import Sample, student_mean
from evenhand.evaluation.judge import EndpointJudge, GapJudge
from evenhand.lifecycle.align import align
from evenhand.lifecycle.judging import open_judge
from evenhand.lifecycle.rewarding import open_reward_model, part_of
from evenhand.lifecycle.sampling import Order, sample
from evenhand.online.constitution import Constitution, Principle
from evenhand.online.feedback import ConstitutionJudge
from evenhand.training.reward_section import RewardPart

SILENT = listening()[0]
OWN = """
def vowels(replies):
    return [float(sum(c in "aeiou" for c in reply)) for reply in replies]

def broken(replies):
    raise RuntimeError("no idea")

def same(replies):
    return [1.0 for _ in replies]

def refuses(prompts, replies, prompt):
    if any(asked[-1]["content"] == prompt for asked in prompts):
        raise RuntimeError("no idea")
    return vowels(replies)

def silent(prompts, replies, prompt):
    return [None if asked[-1]["content"] == prompt else own for asked, own in zip(prompts, vowels(replies))]
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Path:
    """Of a model that ends at one token in eight, as a random one hardly ever would."""
    folder = tmp_path_factory.mktemp("policy")
    shutil.copytree(small_model, folder / "ends")
    GenerationConfig(eos_token_id=[2, *range(350, 400)]).save_pretrained(folder / "ends")
    return finished_run(folder, folder / "ends")


def order(folder: Path, run: Path, reward: str = "vowels", **changes) -> Order:
    (folder / "own.py").write_text(OWN)
    prompts = write_rows(folder / "prompts.jsonl", [{"prompt": row["prompt"]} for row in rows(20, seed=5)])
    given = {
        "model": str(run),
        "prompts": str(prompts),
        "out": folder / "out.jsonl",
        "rewards": (part_of(f"{folder / 'own.py'}:{reward}"),),
        "n": 4,
        "max_new_tokens": 24,
    }
    return Order(**given | changes)


def written(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def vowels(text: str) -> int:
    return sum(c in "aeiou" for c in text)


def cut(what: str, done: int, total: int) -> None:
    """Who stops the command after the first batch, when eight prompts are done."""
    if what == "answering and scoring" and done == 8:
        raise KeyboardInterrupt


def shorter(body: dict, _: int) -> tuple[int, dict[str, str], str]:
    """A judge that prefers the reply with fewer characters."""
    text = body["messages"][-1]["content"]
    first, second = text.partition("Reply A:\n\n")[2].rsplit("\n\nWhich reply", 1)[0].split("\n\nReply B:\n\n")
    return completion("TIE" if len(first) == len(second) else "A" if len(first) < len(second) else "B")


def asked_once(url: str, folder: Path) -> EndpointJudge:
    return EndpointJudge(Endpoint(url, "m", patience=Patience(attempts=1, failures=100)), folder / "said.jsonl")


def test_best_and_worst_become_judgments_that_curate_takes(tmp_path: Path, run: Path) -> None:
    told = sample(order(tmp_path, run), SILENT.say, SILENT.narrate)
    made = written(tmp_path / "out.jsonl")
    assert told["rows"] == len(made) > 3
    assert {row["verdict"] for row in made} == {"a", "b"}
    for row in made:
        winner, loser = row["verdict"], "ab"[row["verdict"] == "a"]
        assert vowels(row[f"answer_{winner}"]) > vowels(row[f"answer_{loser}"])
    assert told["gain"]["value"] == pytest.approx(told["best_of_n"]["value"] - told["mean_score"]["value"])
    assert told["gain"]["low"] > 0
    dataset = prepare(str(tmp_path / "out.jsonl"), tmp_path / "data", Wanted(validation=0.3), SILENT.say)
    assert dataset["rows"]["in"] == len(made)
    assert not (tmp_path / ".out.jsonl.partial").exists()


def test_held_out_prompts_and_those_like_them_are_not_answered(tmp_path: Path, run: Path) -> None:
    held_out = written(run.parent / "held_out.jsonl")
    clean = [{"prompt": row["prompt"]} for row in rows(6, seed=5)]
    leaked = [{"prompt": held_out[0]["prompt"].upper()}, {"prompt": held_out[1]["prompt"] + " "}]
    asked = write_rows(tmp_path / "mixed.jsonl", [*clean, *leaked])
    told = sample(order(tmp_path, run, prompts=str(asked)), SILENT.say, SILENT.narrate)
    assert told["left_out"]["held_out"] == 2
    assert told["prompts"] == 6
    more = write_rows(tmp_path / "more.jsonl", rows(6, seed=5)[:2])
    told = sample(order(tmp_path, run, prompts=str(asked), held_out=str(more)), SILENT.say, SILENT.narrate)
    assert told["left_out"]["held_out"] == 4
    everything = write_rows(tmp_path / "all.jsonl", rows(6, seed=5))
    with pytest.raises(DataError, match=r"all 8 prompts of .* are held out"):
        sample(order(tmp_path, run, prompts=str(asked), held_out=str(everything)), SILENT.say, SILENT.narrate)


def test_an_interrupted_sampling_goes_on_with_the_same_answers(tmp_path: Path, run: Path) -> None:
    whole = order(tmp_path, run, out=tmp_path / "whole.jsonl")
    sample(whole, SILENT.say, SILENT.narrate)

    def cut_later(what: str, done: int, total: int) -> None:
        if done == 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(order(tmp_path, run), SILENT.say, cut_later)
    partial = tmp_path / ".out.jsonl.partial"
    lines = partial.read_text().splitlines(keepends=True)
    assert len(lines) == 16
    partial.write_text("".join(lines[:11]) + lines[11][:40])  # the power went while the second batch was written
    with pytest.raises(UserError, match="holds another sampling"):
        sample(order(tmp_path, run, seed=1), SILENT.say, SILENT.narrate)
    seen: list[int] = []
    sample(order(tmp_path, run), SILENT.say, lambda _, done, total: seen.append(done))
    assert (tmp_path / "out.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()


def test_rankings_and_best_of_n(tmp_path: Path, run: Path) -> None:
    sample(order(tmp_path, run, keep="ranking", out=tmp_path / "ranked.jsonl"), SILENT.say, SILENT.narrate)
    for row in written(tmp_path / "ranked.jsonl"):
        assert row["scores"] == [float(vowels(text)) for text in row["responses"]]
        assert row["scores"] == sorted(row["scores"], reverse=True)
    assert prepare(str(tmp_path / "ranked.jsonl"), tmp_path / "data", Wanted(validation=0.3), SILENT.say)["rows"][
        "used"
    ]
    sample(order(tmp_path, run, keep="best", out=tmp_path / "best.jsonl"), SILENT.say, SILENT.narrate)
    ranked = {row["prompt"][0]["content"]: row["responses"][0] for row in written(tmp_path / "ranked.jsonl")}
    best = {row["prompt"][0]["content"]: row["response"] for row in written(tmp_path / "best.jsonl")}
    assert ranked.items() <= best.items()


def test_a_reward_model_scores_and_judges(tmp_path: Path, small_model: Path, run: Path) -> None:
    reward = align(reward_recipe(tmp_path, small_model), tmp_path / "reward", SILENT)
    told = sample(order(tmp_path, run, rewards=(part_of(str(reward)),), limit=8), SILENT.say, SILENT.narrate)
    made = written(tmp_path / "out.jsonl")
    model = open_reward_model(str(reward), SILENT.say)
    assert told["prompts"] == 8
    assert {row["annotator"] for row in made} == {str(reward)}
    for row in made:
        scores = model([row["prompt"]] * 2, [row["answer_a"], row["answer_b"]])
        assert (scores[0] > scores[1]) == (row["verdict"] == "a")
    with pytest.raises(ModelError, match="is a reward model and answers nothing"):
        sample(order(tmp_path, reward), SILENT.say, SILENT.narrate)


def test_a_judge_behind_an_endpoint_ranks_by_wins(tmp_path: Path, run: Path) -> None:
    with judge_server(shorter) as served:
        judge = open_judge(served.url, "m", tmp_path / "said.jsonl", SILENT.say)
        told = sample(order(tmp_path, run, rewards=(), judge=judge, limit=8), SILENT.say, SILENT.narrate)
    made = written(tmp_path / "out.jsonl")
    assert told["gain"] is None  # each win is another's loss, so that even a coin's choice would gain
    assert told["gain_note"].startswith("not measured: wins over a prompt's other answers are one half on average")
    assert made
    for row in made:
        winner, loser = row["verdict"], "ab"[row["verdict"] == "a"]
        assert len(row[f"answer_{winner}"]) < len(row[f"answer_{loser}"])


def test_what_an_endpoint_does_not_answer_is_counted_never_guessed_and_asked_again(tmp_path: Path, run: Path) -> None:
    away = {rows(20, seed=5)[1]["prompt"]}

    def partly(body: dict, number: int) -> tuple[int, dict[str, str], str]:
        if any(prompt in body["messages"][-1]["content"] for prompt in away):
            return 503, {}, ""
        return shorter(body, number)

    with judge_server(partly) as served:

        def judged(out: str, **changes) -> Order:
            judge = asked_once(served.url, tmp_path)
            return order(tmp_path, run, rewards=(), judge=judge, keep="best", out=tmp_path / out, limit=16, **changes)

        told = sample(judged("some.jsonl"), SILENT.say, SILENT.narrate)
        left_out = told["left_out"]
        assert left_out["unscored"] == 1
        assert [why.startswith("no answer: InternalServerError") for why in told["unscored"]] == [True]
        assert told["rows"] + left_out["no_choice"] + 1 == told["prompts"] == 16
        assert away.isdisjoint(row["prompt"][0]["content"] for row in written(tmp_path / "some.jsonl"))
        with pytest.raises(KeyboardInterrupt):
            sample(judged("out.jsonl"), SILENT.say, cut)
        kept = [json.loads(line)["at"] for line in (tmp_path / ".out.jsonl.partial").read_text().splitlines()]
        assert kept == [0, 2, 3, 4, 5, 6, 7]
        away.clear()
        told = sample(judged("out.jsonl"), SILENT.say, SILENT.narrate)
        assert (told["left_out"]["unscored"], told["unscored"]) == (0, {})
        sample(judged("whole.jsonl"), SILENT.say, SILENT.narrate)
    assert (tmp_path / "out.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()


def test_a_judge_that_says_nothing_at_all_writes_nothing(tmp_path: Path, run: Path) -> None:
    blind = GapJudge("blind", lambda pairs: np.full(len(pairs), np.nan))
    for judge, why in ((asked_once("http://127.0.0.1:9/v1", tmp_path), "no answer"), (blind, "9 cannot be scored")):
        with pytest.raises(JudgeError, match=rf"left 9 prompts without verdicts .*{why}.*; nothing was written"):
            sample(order(tmp_path, run, rewards=(), judge=judge, keep="best", limit=9), SILENT.say, SILENT.narrate)
        assert not (tmp_path / "out.jsonl").exists()
        assert (tmp_path / ".out.jsonl.partial").read_text() == ""


def test_what_is_told_of_the_best_is_told_of_what_is_written(tmp_path: Path, run: Path) -> None:
    """Prompts nearly alike are one draw, so that twice as many of them tell little more."""
    prompts = [row["prompt"] for row in rows(10, seed=5)]
    asked = write_rows(tmp_path / "twice.jsonl", [{"prompt": p + mark} for p in prompts for mark in ("", "!")])
    told = sample(order(tmp_path, run, prompts=str(asked), keep="best"), SILENT.say, SILENT.narrate)
    made = written(tmp_path / "out.jsonl")
    scores = np.array([vowels(row["response"]) for row in made], dtype=np.float64)
    family = np.array([prompts.index(row["prompt"][0]["content"].rstrip("!")) for row in made])
    assert len(set(family)) < len(made)
    assert told["best_of_n"] == pytest.approx(student_mean(Sample(scores, family)).json())
    assert told["gain_note"] == "the score that chose the answers is the one that measures them"


def test_a_sampling_is_not_gone_on_with_by_another_score(tmp_path: Path, run: Path) -> None:
    def refused(first: Order, second: Order) -> None:
        with pytest.raises(KeyboardInterrupt):
            sample(first, SILENT.say, cut)
        with pytest.raises(UserError, match="holds another sampling"):
            sample(second, SILENT.say, SILENT.narrate)
        (tmp_path / ".out.jsonl.partial").unlink()

    own = f"{tmp_path / 'own.py'}:vowels"
    refused(order(tmp_path, run), order(tmp_path, run, rewards=(part_of(f"0.5*{own}"),)))
    principles = (Principle(id="short", prefer="Prefer the shorter reply."), Principle(id="warm", prefer="Be warm."))
    with judge_server(shorter) as served:
        endpoint = Endpoint(served.url, "m")
        one = ConstitutionJudge(endpoint, tmp_path / "said.jsonl", Constitution("shop", principles, "0" * 64))
        edited = replace(one, constitution=replace(one.constitution, sha256="1" * 64))
        for other in (edited, replace(one, every=True)):
            refused(*(order(tmp_path, run, rewards=(), judge=judge) for judge in (one, other)))


@pytest.mark.parametrize(
    ("name", "lost", "why"),
    [
        ("refuses", {"broken_reward": 8, "unscored": 0}, "own.py:refuses threw RuntimeError: no idea"),
        ("silent", {"broken_reward": 0, "unscored": 1}, "no reward says anything of an answer"),
    ],
)
def test_every_prompt_without_scores_is_counted(
    tmp_path: Path, run: Path, name: str, lost: dict[str, int], why: str
) -> None:
    part = RewardPart(source=f"{tmp_path / 'own.py'}:{name}", arguments={"prompt": rows(20, seed=5)[1]["prompt"]})
    told = sample(order(tmp_path, run, rewards=(part,)), SILENT.say, SILENT.narrate)
    assert lost.items() <= told["left_out"].items()
    assert told["rows"] + told["left_out"]["no_choice"] + sum(lost.values()) == told["prompts"] == 20
    ((said, count),) = told["unscored"].items()
    assert (said.endswith(why), count) == (True, sum(lost.values()))


def test_rewards_that_break_or_never_differ(tmp_path: Path, run: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"own\.py:broken threw RuntimeError: no idea"):
        sample(order(tmp_path, run, "broken", n=2), SILENT.say, SILENT.narrate)
    with pytest.raises(DataError, match="none of 20 prompts gave answers that end and differ in score"):
        sample(order(tmp_path, run, "same", n=2), SILENT.say, SILENT.narrate)


def test_orders_that_make_no_sense_are_refused(tmp_path: Path, run: Path) -> None:
    with pytest.raises(UserError, match="take 2 or more"):
        order(tmp_path, run, n=1)
    with pytest.raises(UserError, match="take 2 or more"):
        order(tmp_path, run, n=1, keep="best", rewards=(), judge=GapJudge("blind", lambda pairs: np.zeros(len(pairs))))
    with pytest.raises(UserError, match="one of the two"):
        order(tmp_path, run, rewards=())
    with pytest.raises(UserError, match="write runs/reward"):
        part_of("x*runs/reward")
