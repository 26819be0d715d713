"""On-policy judgments: clean of held-out prompts, scored as they should be, resumed, and taken by curate."""

import json
import shutil
from pathlib import Path

import pytest
from judge_server import completion, judge_server
from small_model import listening, rows, write_rows
from small_run import finished_run
from test_reward_run import reward_recipe
from transformers import GenerationConfig

from evenhand.data.preparation import Wanted, prepare
from evenhand.errors import DataError, ModelError, NonFiniteError, UserError
from evenhand.lifecycle.align import align
from evenhand.lifecycle.judging import open_judge
from evenhand.lifecycle.rewarding import open_reward_model, part_of
from evenhand.lifecycle.sampling import Order, sample

SILENT = listening()[0]
OWN = """
def vowels(replies):
    return [float(sum(c in "aeiou" for c in reply)) for reply in replies]

def broken(replies):
    raise RuntimeError("no idea")

def same(replies):
    return [1.0 for _ in replies]
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

    def cut(what: str, done: int, total: int) -> None:
        if done == 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(order(tmp_path, run), SILENT.say, cut)
    partial = tmp_path / ".out.jsonl.partial"
    lines = partial.read_text().splitlines(keepends=True)
    assert len(lines) == 2
    partial.write_text(lines[0] + lines[1][:40])  # the power went while the second was written
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
    """This one prefers the reply with fewer characters."""

    def shorter(body: dict, _: int) -> tuple[int, dict[str, str], str]:
        text = body["messages"][-1]["content"]
        first, second = text.partition("Reply A:\n\n")[2].rsplit("\n\nWhich reply", 1)[0].split("\n\nReply B:\n\n")
        return completion("TIE" if len(first) == len(second) else "A" if len(first) < len(second) else "B")

    with judge_server(shorter) as served:
        judge = open_judge(served.url, "m", tmp_path / "said.jsonl", SILENT.say)
        told = sample(order(tmp_path, run, rewards=(), judge=judge, limit=8), SILENT.say, SILENT.narrate)
    made = written(tmp_path / "out.jsonl")
    assert told["mean_score"]["value"] == pytest.approx(0.5)  # each win is another's loss
    assert made
    for row in made:
        winner, loser = row["verdict"], "ab"[row["verdict"] == "a"]
        assert len(row[f"answer_{winner}"]) < len(row[f"answer_{loser}"])


def test_rewards_that_break_or_never_differ(tmp_path: Path, run: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"own\.py:broken threw RuntimeError: no idea"):
        sample(order(tmp_path, run, "broken", n=2), SILENT.say, SILENT.narrate)
    with pytest.raises(DataError, match="none of 20 prompts gave answers that end and differ in score"):
        sample(order(tmp_path, run, "same", n=2), SILENT.say, SILENT.narrate)


def test_orders_that_make_no_sense_are_refused(tmp_path: Path, run: Path) -> None:
    with pytest.raises(UserError, match="take 2 or more"):
        order(tmp_path, run, n=1)
    with pytest.raises(UserError, match="one of the two"):
        order(tmp_path, run, rewards=())
    with pytest.raises(UserError, match="write runs/reward"):
        part_of("x*runs/reward")
