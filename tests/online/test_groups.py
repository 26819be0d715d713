"""GRPO and RLOO by TRL: they find the best arm, go on where they stopped with the same bits, and leave the model as it was."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from bandit import TASKS, arm_reward, bandit_model, serving
from small_training import assert_same_bits, trained

pytest.importorskip("trl")

from evenhand.errors import NonFiniteError, UserError
from evenhand.evaluation.generate import reply_of
from evenhand.model.adapter import Adapter
from evenhand.model.forward import use_attention
from evenhand.online import groups
from evenhand.online.groups import practise_groups
from evenhand.online.practice import Practice, tasks_of
from evenhand.online.rewards import Reward
from evenhand.online.rollout import Draw, draw
from evenhand.training.journal import read_journal
from evenhand.training.practice_sections import GRPOSection, RLOOSection
from evenhand.training.sections import TrainingSection
from evenhand.training.train import make_policy

SECTIONS = {"grpo": GRPOSection, "rloo": RLOOSection}


def settings(**changes) -> TrainingSection:
    given = {"batch_pairs": 4, "steps": 3, "learning_rate": 3e-3, "schedule": "constant", "warmup": 0.0, "seed": 0}
    return TrainingSection.model_validate(given | changes)


def section(name: str, **changes):
    given = {"name": name, "rewards": ["own.py:arm"], "replies": 4, "max_new_tokens": 2, "kl": 0.0}
    return SECTIONS[name].model_validate(given | changes)


def job(folder: Path, training: TrainingSection, method, reward=arm_reward, **more) -> Practice:
    folder.mkdir(exist_ok=True)
    return Practice(TASKS, [Reward("arm", reward)], method, serving(), training, folder, {"recipe": "1"}, **more)


def policy_of(training: TrainingSection, adapter: Adapter | None = None):
    return make_policy(bandit_model(), adapter, training)


def mean_reward(policy, replies: int = 100) -> float:
    torch.manual_seed(1)
    found = arm_reward([reply.text for reply in draw(policy, serving(), TASKS, Draw(replies, 1))])
    return sum(found) / len(found)


@pytest.mark.parametrize("name", SECTIONS)
def test_nine_tenths_of_the_best_arm(tmp_path: Path, name: str) -> None:
    training = settings(steps=14, learning_rate=1e-2, max_skipped=20)
    policy = policy_of(training)
    assert mean_reward(policy) < 0.5
    practise_groups(policy, job(tmp_path / "run", training, section(name, replies=16, max_new_tokens=1, passes=2)))
    assert mean_reward(policy) >= 0.9
    record = read_journal(tmp_path / "run" / "journal.jsonl")[5]
    assert {"reward", "loss", "clip_fraction", "gradient_norm", "ended", "reply_tokens"} <= set(record)
    assert (record["pairs"], record["reply_tokens"]) == (6 * 4 * 16, 1.0)
    assert "token_kl" not in record


@pytest.mark.parametrize(
    ("name", "adapter", "more"),
    [
        ("grpo", None, {"passes": 2, "kl": 0.1}),
        ("grpo", Adapter(4, 8, dropout=0.2), {"kl": 0.1, "at_once": 4}),
        ("rloo", Adapter(4, 8), {"passes": 2}),
    ],
)
def test_a_stopped_run_goes_on_with_the_same_bits(tmp_path: Path, name: str, adapter: Adapter | None, more) -> None:
    training, method = settings(steps=4, checkpoint_every=2), section(name, **more)
    whole = policy_of(training, adapter)
    assert practise_groups(whole, job(tmp_path / "whole", training, method)) == 4

    def stop(record: dict, steps: int) -> None:
        if record["step"] == 3:
            raise RuntimeError("power is gone")

    with pytest.raises(RuntimeError, match="power"):
        practise_groups(policy_of(training, adapter), job(tmp_path / "cut", training, method, report=stop))
    torch.manual_seed(999)
    second = policy_of(training, adapter)
    assert practise_groups(second, job(tmp_path / "cut", training, method)) == 4
    assert_same_bits(trained(whole), trained(second))
    journals = [read_journal(tmp_path / one / "journal.jsonl") for one in ("whole", "cut")]
    assert [record["reward"] for record in journals[0]] == [record["reward"] for record in journals[1]]
    assert [record["step"] for record in journals[1]] == [1, 2, 3, 4]
    assert not list((tmp_path / "whole").rglob("*.pt")) + list((tmp_path / "whole").rglob("*.bin"))
    assert practise_groups(second, job(tmp_path / "cut", training, method)) == 4  # and a done one is left alone


def test_replies_of_which_nothing_is_said_are_in_no_mean(tmp_path: Path) -> None:
    def of_some(replies) -> list[float | None]:
        return [None if i % 2 else 1.0 for i in range(len(replies))]

    training = settings(steps=1)
    practise_groups(policy_of(training), job(tmp_path / "run", training, section("rloo"), of_some))
    (record,) = read_journal(tmp_path / "run" / "journal.jsonl")
    assert record["reward"] == 1.0


def test_the_first_step_is_grpos_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the first pass every ratio is 1: the gradient is minus the mean of advantage times d log p, and AdamW's first
    step is the learning rate times the gradient's sign (Kingma and Ba 2014, with a gradient far above epsilon)."""
    training = settings(steps=1, batch_pairs=1, learning_rate=1e-3)
    policy, before, drawn = policy_of(training), policy_of(training), []

    def noted(prompt, ids, stops, tokenizer):
        drawn.append((ids, reply_of(prompt, ids, stops, tokenizer).text))
        return reply_of(prompt, ids, stops, tokenizer)

    monkeypatch.setattr(groups, "reply_of", noted)
    practise_groups(policy, job(tmp_path / "run", training, section("grpo", replies=8, max_new_tokens=1)))
    rewards = torch.tensor(arm_reward([text for _, text in drawn]))
    tokens = torch.tensor([ids for ids, _ in drawn]).squeeze(1)
    advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
    (task,) = tasks_of(TASKS, training, 0)
    prompt = serving().prompt_tokens(task.prompt)
    use_attention(before.model, "sdpa")
    logits = before.model(torch.tensor([prompt])).logits[0, -1]
    loss = -(advantages * logits.log_softmax(-1)[tokens]).mean()
    loss.backward()
    moved = 0
    for (name, was), (_, now) in zip(before.model.named_parameters(), policy.model.named_parameters()):
        clear = was.grad.abs() > 1e-4
        assert torch.allclose((now - was)[clear], -1e-3 * was.grad[clear].sign(), rtol=0.02, atol=1e-6), name
        moved += int(clear.sum())
    assert moved > 100


def test_the_distance_from_the_start_is_measured_and_paid_for(tmp_path: Path) -> None:
    training = settings(steps=6, learning_rate=1e-2, max_skipped=20)
    reached = []
    for kl in (0.001, 2.0):
        policy = policy_of(training)
        practise_groups(policy, job(tmp_path / str(kl), training, section("grpo", replies=16, kl=kl, passes=2)))
        journal = read_journal(tmp_path / str(kl) / "journal.jsonl")
        reached.append(journal[-1]["token_kl"])
    assert 0 < reached[1] < 0.7 * reached[0]


def test_the_model_is_left_as_it_was_but_for_its_weights(tmp_path: Path) -> None:
    training = settings(steps=1)
    policy = policy_of(training, Adapter(4, 8))
    inner = policy.model.get_base_model()
    before = (
        inner.config.to_dict(),
        inner.generation_config.to_dict(),
        sorted(inner.__dict__),
        set(policy.model.peft_config),
    )
    practise_groups(policy, job(tmp_path / "run", training, section("grpo", kl=0.1)))
    assert before == (
        inner.config.to_dict(),
        inner.generation_config.to_dict(),
        sorted(inner.__dict__),
        set(policy.model.peft_config),
    )


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (lambda replies: [float("nan")] * len(replies), "the reward arm is nan for 16 of 16 replies"),
        (lambda replies: [1 / 0], "the reward arm threw ZeroDivisionError"),
        (
            lambda prompts, replies: [float(len(str(p))) for p in prompts],
            "is the same for all 4 replies to each of 4 prompts",
        ),
        (lambda replies: [1.0], "the reward arm gave 1 values for 16 replies"),
    ],
)
def test_a_reward_that_teaches_nothing_is_skipped_counted_and_stops_the_run(tmp_path: Path, reward, said: str) -> None:
    training = settings(steps=9, max_skipped=2)
    policy = policy_of(training)
    before = trained(policy)
    with pytest.raises(NonFiniteError, match=r"correct the reward arm") as error:
        practise_groups(policy, job(tmp_path / "run", training, section("grpo", kl=0.1), reward))
    assert said in str(error.value)
    assert "3 steps in a row" in str(error.value)
    records = read_journal(tmp_path / "run" / "journal.jsonl")
    assert [said in record["skipped"] for record in records] == [True, True]
    assert_same_bits(before, trained(policy))


def test_one_bad_step_among_good_ones_moves_nothing_and_is_counted(tmp_path: Path) -> None:
    calls, weights = [], []

    def sometimes(replies) -> list[float]:
        calls.append(len(replies))
        return [float("inf")] * len(replies) if len(calls) == 2 else arm_reward(replies)

    training = settings(steps=3, max_skipped=1)
    policy = policy_of(training)
    practise_groups(
        policy,
        job(
            tmp_path / "run",
            training,
            section("rloo", passes=2),
            sometimes,
            report=lambda *_: weights.append(trained(policy)),
        ),
    )
    assert ["skipped" in r for r in read_journal(tmp_path / "run" / "journal.jsonl")] == [False, True, False]
    assert_same_bits(weights[0], weights[1])
    with pytest.raises(AssertionError):
        assert_same_bits(weights[1], weights[2])


def test_vllm_that_is_not_there_is_said(tmp_path: Path) -> None:
    if find_spec("vllm"):
        pytest.skip("vLLM is installed")
    training = settings(steps=1)
    with pytest.raises(UserError, match="pip install vllm"):
        practise_groups(policy_of(training), job(tmp_path / "run", training, section("grpo", vllm=True)))
