"""The collapse guard: each sign against the untrained model, by its own limit, in a sentence with both values."""

from dataclasses import replace
from pathlib import Path

import pytest
from small_training import run, settings

from evenhand.errors import CollapseError, NonFiniteError
from evenhand.model.forward import Policy
from evenhand.training.checkpoint import newest_checkpoint
from evenhand.training.guard import Vitals, collapse_of
from evenhand.training.journal import read_journal
from evenhand.training.loop import Hooks, Validation
from evenhand.training.sections import GuardSection

START = Vitals(chosen_mean=-1.0, repetition=0.1, ended=0.9, median_tokens=40.0)
LIMITS = GuardSection(repetition_rise=0.3, ended_fall=0.5, length_factor=4.0, chosen_fall=1.5)

SIGNS = {
    "repetition": (replace(START, repetition=0.41), "repetition in replies rose from 0.10 to 0.41"),
    "ended": (replace(START, ended=0.39), "end by themselves fell from 0.90 to 0.39"),
    "longer": (replace(START, median_tokens=161.0), "median reply went from 40 to 161 tokens"),
    "shorter": (replace(START, median_tokens=9.0), "median reply went from 40 to 9 tokens"),
    "empty": (replace(START, median_tokens=0.0), "median reply went from 40 to 0 tokens"),
    "chosen": (replace(START, chosen_mean=-2.51), "chosen answers fell from -1.00 to -2.51 nats"),
}


@pytest.mark.parametrize("name", SIGNS)
def test_each_sign_is_seen_by_its_own_limit(name: str) -> None:
    now, words = SIGNS[name]
    said = collapse_of(START, now, LIMITS)
    assert said is not None
    assert words in said
    off = GuardSection(repetition_rise=None, ended_fall=None, length_factor=None, chosen_fall=None)
    assert collapse_of(START, now, off) is None


def test_what_stays_within_the_limits_goes_on() -> None:
    near = Vitals(chosen_mean=-2.49, repetition=0.39, ended=0.41, median_tokens=159.0)
    assert collapse_of(START, near, LIMITS) is None
    assert collapse_of(START, Vitals(0.0, 0.0, 1.0, 11.0), LIMITS) is None  # better is no collapse


def test_without_replies_only_the_scores_are_watched() -> None:
    assert collapse_of(Vitals(-1.0), Vitals(-2.0), LIMITS) is None
    assert collapse_of(Vitals(-1.0), Vitals(-3.0), LIMITS) is not None


def test_a_collapse_stops_the_run_and_keeps_the_best(tmp_path: Path) -> None:
    def validate(_: Policy, step: int) -> Validation:
        return Validation(1.0 / step, {}, "it repeats itself" if step == 4 else None)

    choice = settings(validate_every=1, checkpoint_every=None)
    for _ in range(2):  # started again, it comes to the same end
        with pytest.raises(
            CollapseError, match="after step 4: it repeats itself; the best checkpoint, of step 3, is kept"
        ) as e:
            run(tmp_path, choice, Hooks(validate))
        assert e.value.exit_code == 3
    checkpoint = newest_checkpoint(tmp_path / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.step == 3
    assert read_journal(tmp_path / "journal.jsonl")[-1]["validation"]["collapse"] == "it repeats itself"


def poisoned(folder: Path, steps: tuple[int, ...], **changes: object) -> None:
    """A run whose gradient is infinite in the steps after `steps`."""
    from architectures import tiny
    from small_training import OBJECTIVE, some_pairs

    from evenhand.training.train import Place, make_policy, train_policy

    training, seen = settings(**changes), [0]
    policy = make_policy(tiny("llama"), None, training)
    weight = next(iter(policy.parameters()))
    weight.register_hook(lambda gradient: gradient * (float("inf") if seen[0] in steps else 1.0))
    hooks = Hooks(report=lambda record, _: seen.__setitem__(0, record["step"]))
    train_policy(policy, (some_pairs(17), OBJECTIVE, training), Place(folder), hooks)


def test_a_step_that_is_not_finite_is_skipped_and_counted(tmp_path: Path) -> None:
    poisoned(tmp_path, (1, 3), on_nonfinite="skip", max_skipped=2)
    records = read_journal(tmp_path / "journal.jsonl")
    assert [record["step"] for record in records if "skipped" in record] == [2, 4]
    assert "the gradient is not finite; it came from row" in records[1]["skipped"]
    assert "loss" not in records[1]
    checkpoint = newest_checkpoint(tmp_path / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.state["skipped"] == 2


def test_more_skipped_steps_than_allowed_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(
        NonFiniteError, match=r"2 steps were not finite, and `training.max_skipped` is 1; at the last one, step 4"
    ):
        poisoned(tmp_path, (1, 3), on_nonfinite="skip", max_skipped=1)
    with pytest.raises(NonFiniteError, match="the gradient is not finite"):
        poisoned(tmp_path / "stop", (1,))
