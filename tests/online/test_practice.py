"""The loop of PPO: it finds the best arm, goes on where it stopped with the same bits, and skips what teaches nothing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bandit import TASKS, arm_reward, bandit_model, best_by_states, regularised_optimum, serving, worth_of
from small_training import assert_same_bits, trained

from evenhand.errors import NonFiniteError
from evenhand.model.adapter import Adapter
from evenhand.online.learner import Learner
from evenhand.online.ppo import Clips
from evenhand.online.practice import PPO, Practice, practise, tasks_of
from evenhand.online.replies import read_tokens
from evenhand.online.rewards import Reward
from evenhand.online.rollout import Draw, draw
from evenhand.training.journal import read_journal
from evenhand.training.sections import TrainingSection
from evenhand.training.train import make_policy

CLIPS = Clips(0.2, 0.2, 0.1)


def settings(**changes) -> TrainingSection:
    given = {"batch_pairs": 4, "steps": 3, "learning_rate": 3e-3, "schedule": "constant", "warmup": 0.0, "seed": 0}
    return TrainingSection.model_validate(given | changes)


def job(
    folder: Path, training: TrainingSection, reward=arm_reward, kl: float = 0.0, replies: int = 4, tokens: int = 2
) -> Practice:
    folder.mkdir(exist_ok=True)
    ppo = PPO(Draw(replies, tokens), kl, 4, 2, CLIPS, (1.0, 0.95))
    return Practice(TASKS, [Reward("arm", reward)], ppo, serving(), training, folder, {"recipe": "1"})


def learner(training: TrainingSection, adapter: Adapter | None = None) -> Learner:
    return Learner(make_policy(bandit_model(), adapter, training))


def mean_reward(one: Learner, replies: int = 100) -> float:
    torch.manual_seed(1)
    found = worth_of(draw(one.policy, serving(), TASKS, Draw(replies, 1)))
    return sum(found) / len(found)


def test_nine_tenths_of_the_best_arm(tmp_path: Path) -> None:
    training = settings(steps=14, max_skipped=20)
    one = learner(training)
    before = mean_reward(one)
    assert before < 0.5
    practise(one, job(tmp_path / "run", training, replies=16, tokens=1))
    assert mean_reward(one) >= 0.9
    record = read_journal(tmp_path / "run" / "journal.jsonl")[5]
    assert {"reward", "kl", "entropy", "explained_variance", "clip_fraction", "policy_kl"} <= set(record)
    assert record["kl"] > 0


def test_an_adapter_finds_the_best_arm_where_the_frozen_output_layer_can_tell_it(tmp_path: Path) -> None:
    """It is no matter of initial scale, learning rate or distance: with flat logits the frozen layer cannot say it."""
    assert best_by_states(bandit_model()) < 0.4
    sharp = bandit_model(5.0)
    assert best_by_states(sharp) > 0.99
    training = settings(steps=26, learning_rate=1e-3, max_skipped=20)
    one = Learner(make_policy(sharp, Adapter(16, 32), training))
    assert mean_reward(one) < 0.3
    practise(one, job(tmp_path / "run", training, kl=0.05, replies=32, tokens=1))
    assert mean_reward(one) >= 0.9


def test_the_distance_from_the_reference_is_paid_for(tmp_path: Path) -> None:
    """With reward minus kl times distance the best is known in closed form; near it, and well below reward 1."""
    kl = 0.5
    training = settings(steps=14, max_skipped=20)
    one = learner(training)
    torch.manual_seed(2)
    drawn = draw(one.policy, serving(), TASKS, Draw(500, 1))
    best = regularised_optimum(worth_of(drawn), [1 / len(drawn)] * len(drawn), kl)
    practise(one, job(tmp_path / "run", training, kl=kl, replies=16, tokens=1))
    torch.manual_seed(3)
    drawn = draw(one.policy, serving(), TASKS, Draw(200, 1))
    replies = [reply.tokens for reply in drawn]
    with torch.no_grad():
        now = read_tokens(one.policy, replies, None).log_prob_E
        with one.reference() as reference:
            then = read_tokens(reference, replies, None).log_prob_E
    rewards = worth_of(drawn)
    found = sum(rewards) / len(rewards) - kl * float((now - then).mean())
    start = mean_reward(learner(training))
    assert start + 0.5 * (best - start) < found <= best + 0.03
    assert sum(rewards) / len(rewards) < 0.9


@pytest.mark.parametrize("adapter", [None, Adapter(4, 8)])
def test_a_stopped_run_goes_on_with_the_same_bits(tmp_path: Path, adapter: Adapter | None) -> None:
    training = settings(steps=4, checkpoint_every=2)
    whole = learner(training, adapter)
    practise(whole, job(tmp_path / "whole", training))
    first = learner(training, adapter)
    stopped = job(tmp_path / "cut", training)

    def stop(record: dict, steps: int) -> None:
        if record["step"] == 3:
            raise RuntimeError("power is gone")

    with pytest.raises(RuntimeError, match="power"):
        practise(first, Practice(**{name: getattr(stopped, name) for name in stopped.__slots__} | {"report": stop}))
    torch.manual_seed(999)
    second = Learner(make_policy(bandit_model(), adapter, training))
    assert practise(second, stopped) == 4
    assert_same_bits(trained(whole), trained(second))
    journals = [read_journal(tmp_path / name / "journal.jsonl") for name in ("whole", "cut")]
    assert [r["reward"] for r in journals[0]] == [r["reward"] for r in journals[1]]
    assert [r["step"] for r in journals[1]] == [1, 2, 3, 4]


def test_the_reference_does_not_move_and_dropout_is_off(tmp_path: Path) -> None:
    training = settings(steps=2)
    for adapter in (None, Adapter(4, 8, dropout=0.5)):
        one = learner(training, adapter)
        replies = [reply.tokens for reply in draw(one.policy, serving(), TASKS, Draw(2, 3))]
        with torch.no_grad(), one.reference() as reference:
            before = read_tokens(reference, replies, None).log_prob_E
        practise(one, job(tmp_path / str(adapter is None), training))
        with torch.no_grad(), one.reference() as reference:
            after = read_tokens(reference, replies, None).log_prob_E
            assert torch.equal(before, after)
            assert not torch.equal(read_tokens(one.policy, replies, None).log_prob_E, after) or adapter is not None


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (lambda replies: [float("nan")] * len(replies), "the reward arm is nan for 16 of 16 replies"),
        (lambda replies: [1 / 0], "the reward arm threw ZeroDivisionError"),
        (lambda replies: [2.0] * len(replies), "the reward arm is 2 for all 16 replies"),
        (lambda replies: [None] * len(replies), "the reward arm says nothing of any of 16 replies"),
        (lambda replies: [1.0], "the reward arm gave 1 values for 16 replies"),
    ],
)
def test_a_reward_that_teaches_nothing_is_skipped_counted_and_stops_the_run(tmp_path: Path, reward, said: str) -> None:
    training = settings(steps=9, max_skipped=2)
    one = learner(training)
    before = trained(one)
    with pytest.raises(NonFiniteError, match=r"correct the reward arm") as error:
        practise(one, job(tmp_path / "run", training, reward))
    assert said in str(error.value)
    assert "3 steps in a row" in str(error.value)
    records = [json.loads(line) for line in (tmp_path / "run" / "journal.jsonl").read_text().splitlines()]
    assert [said in record["skipped"] for record in records] == [True, True]
    assert_same_bits(before, trained(one))


def test_what_unfinished_replies_get_counts_as_a_difference_and_as_none(tmp_path: Path) -> None:
    training = settings(steps=1, max_skipped=1)

    def run(name: str, reward, stops: set[int]) -> dict:
        torch.manual_seed(0)
        plain = job(tmp_path / name, training, reward)
        method, ends = replace(plain.method, unfinished=-1.0), replace(plain.serving, stop_tokens=frozenset(stops))
        practise(learner(training), replace(plain, method=method, serving=ends))
        (record,) = read_journal(tmp_path / name / "journal.jsonl")
        return record

    some_end = run("some", lambda replies: [2.0] * len(replies), set(range(250, 400)))
    assert 0 < some_end["ended"] < 1
    assert some_end["reward"] == pytest.approx(3 * some_end["ended"] - 1)
    none_ends = run("none", arm_reward, {2})
    assert none_ends["skipped"] == "the reward arm is -1 for all 16 replies, of which none ended"


def test_replies_of_which_nothing_is_said_teach_as_zero_and_are_in_no_mean(tmp_path: Path) -> None:
    def of_some(replies) -> list[float | None]:
        return [None if i % 2 else 1.0 for i in range(len(replies))]

    training = settings(steps=1)
    practise(learner(training), job(tmp_path / "run", training, of_some))
    (record,) = read_journal(tmp_path / "run" / "journal.jsonl")
    assert record["reward"] == 1.0


def test_one_bad_step_among_good_ones_is_only_counted(tmp_path: Path) -> None:
    calls = []

    def sometimes(replies) -> list[float]:
        calls.append(len(replies))
        return [float("inf")] * len(replies) if len(calls) == 2 else arm_reward(replies)

    training = settings(steps=3, max_skipped=1)
    practise(learner(training), job(tmp_path / "run", training, sometimes))
    assert ["skipped" in r for r in read_journal(tmp_path / "run" / "journal.jsonl")] == [False, True, False]


def test_every_prompt_comes_once_before_any_comes_again() -> None:
    training = settings(batch_pairs=3)
    asked = [task for step in range(4) for task in tasks_of(TASKS, training, step)]
    for start in range(0, 12, 4):
        assert set(asked[start : start + 4]) == set(TASKS)
