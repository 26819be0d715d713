"""Objectives that learn from single answers: what they are given, and that a step is the same however it is cut."""

from pathlib import Path

import numpy as np
import pytest
import torch
from architectures import tiny
from small_training import assert_same_bits, settings, some_pairs, trained
from torch import Tensor

from evenhand.errors import DataError, RecipeError
from evenhand.model.encode import ABSENT, EncodedPair, side
from evenhand.model.forward import Policy
from evenhand.model.pack import PackedBatch, common_beginning, forest_tokens, pack
from evenhand.model.reference import AdapterOff, Reference, SecondModel
from evenhand.model.scores import PairScores
from evenhand.objectives.dpo import DPO
from evenhand.objectives.kto import KTO
from evenhand.objectives.objective import Objective
from evenhand.objectives.supervised import Supervised
from evenhand.training.baseline import mismatched, with_baseline
from evenhand.training.examples import examples_of
from evenhand.training.goal import Goal
from evenhand.training.journal import read_journal
from evenhand.training.loop import Hooks
from evenhand.training.optim import MasterAdamW
from evenhand.training.ranks import Ranks
from evenhand.training.share import share_of
from evenhand.training.step import StepResult, train_step
from evenhand.training.train import Place, make_policy, train_policy


def other_model() -> SecondModel:
    model = tiny("llama")
    with torch.no_grad():
        model.lm_head.weight.mul_(0.9)
    return SecondModel(Policy(model), "other")


def stepped(objective: Objective, reference: Reference | None, budget: int) -> tuple[StepResult, dict[str, Tensor]]:
    """One step on 16 examples cut to `budget` tokens, and AdamW's first moments: a tenth of the gradients."""
    policy = Policy(tiny("llama"))
    optimizer = MasterAdamW(policy, 0.0)
    examples = examples_of(some_pairs(8), objective.traits.examples)
    goal = with_baseline(Goal(objective, reference), policy, examples, 99, (budget, Ranks(), False))
    result = train_step(policy, goal, optimizer, share_of(examples, budget, Ranks(), False), (1e-4, 1e9))
    return result, {name: t for name, t in optimizer.tensors() if name.startswith("exp_avg.")}


@pytest.mark.parametrize("objective", [Supervised(), KTO(0.3), DPO(0.3)], ids=["sft", "kto", "dpo"])
def test_a_step_is_the_same_however_it_is_cut(objective: Objective) -> None:
    reference = other_model() if objective.traits.needs_reference else None
    whole, gradients = stepped(objective, reference, 100_000)
    for budget in (20, 50):
        cut, others = stepped(objective, reference, budget)
        assert cut.loss == pytest.approx(whole.loss, rel=1e-6)
        for name, gradient in gradients.items():
            assert float((others[name] - gradient).norm() / gradient.norm()) < 1e-5, name


def test_sft_is_transformers_own_loss_over_answer_tokens() -> None:
    model = tiny("llama")
    answers = examples_of(some_pairs(6), "answers")
    total, tokens = 0.0, 0
    for example in answers:
        ids = torch.from_numpy(example.chosen.tokens.astype(np.int64))[None]
        labels = ids.clone()
        labels[:, : example.chosen.starts] = -100
        total += float(model(input_ids=ids, labels=labels).loss.detach()) * example.chosen.scored
        tokens += example.chosen.scored
    policy = Policy(tiny("llama"))
    share = share_of(answers, 50, Ranks(), False)
    result = train_step(policy, Goal(Supervised()), MasterAdamW(policy, 0.0), share, (0.0, 1.0))
    assert result.loss == pytest.approx(total / tokens, rel=1e-6)
    assert (result.accuracy, result.gap, result.rejected_mean) == (None, None, None)
    means = Policy(tiny("llama"))(pack(answers)).chosen_mean_B
    assert result.chosen_mean == pytest.approx(float(means.detach().mean()), rel=1e-6)


def test_answers_are_those_of_pairs_each_once() -> None:
    pairs = some_pairs(5)
    pairs.append(EncodedPair(pairs[0].row, "again", pairs[0].group, pairs[0].chosen, pairs[1].rejected))
    answers = examples_of(pairs, "answers")
    assert [example.chosen for example in answers] == [pair.chosen for pair in pairs[:5]]
    assert all(example.rejected.absent for example in answers)
    assert len({example.group for example in answers}) == 5
    votes = examples_of(pairs, "votes")
    assert len(votes) == 11  # the sixth pair brings one answer that row 0 had not
    assert sum(vote.chosen.absent for vote in votes) == 6
    assert examples_of(pairs, "pairs") is pairs


def test_an_objective_on_pairs_refuses_single_answers_by_row() -> None:
    votes = examples_of(some_pairs(3), "votes")
    with pytest.raises(DataError, match=r"row 0 has one answer.*\{name: sft\}.*\{name: kto\}"):
        examples_of(votes, "pairs")
    disliked = [vote for vote in votes if vote.chosen.absent]
    with pytest.raises(DataError, match="nothing to imitate"):
        examples_of(disliked, "answers")


def test_a_forest_of_single_answers_counts_what_is_there() -> None:
    pairs = some_pairs(3)
    votes = examples_of(pairs, "votes")
    both, apart = Policy(tiny("llama"))(pack(pairs)), Policy(tiny("llama"))(pack(votes))
    assert apart.chosen_sum_B[0::2].tolist() == pytest.approx(both.chosen_sum_B.tolist(), rel=1e-6)
    assert apart.rejected_sum_B[1::2].tolist() == pytest.approx(both.rejected_sum_B.tolist(), rel=1e-6)
    assert apart.rejected_sum_B[0::2].tolist() == apart.chosen_sum_B[1::2].tolist() == [0.0] * 3
    assert apart.chosen_tokens_B[1::2].tolist() == [0] * 3
    assert forest_tokens(votes) == forest_tokens(pairs) == pack(votes).tokens
    assert common_beginning(votes[:2]) == pairs[0].chosen.starts


def test_mismatched_answers_follow_their_own_prompt() -> None:
    votes = examples_of(some_pairs(3), "votes")
    made = mismatched(votes, 99)
    sides = [vote.rejected if vote.chosen.absent else vote.chosen for vote in votes]
    for at, own in enumerate(made):
        prompt, answer = sides[at], sides[at - 1]
        wanted = [*prompt.tokens[: prompt.starts], *answer.tokens[answer.starts :]]
        assert own.chosen.tokens.tolist() == wanted
        assert own.chosen.starts == prompt.starts
        assert own.rejected is ABSENT
    assert mismatched(votes[:1], 99) == []


def test_a_mismatch_is_no_longer_than_the_longest_example() -> None:
    votes = examples_of(
        [
            EncodedPair(0, "a", "0", side(list(range(3, 20)), 15), side(list(range(3, 19)), 15)),
            EncodedPair(1, "b", "1", side(list(range(30, 48)), 3), side(list(range(30, 47)), 3)),
        ],
        "votes",
    )
    made = [one.chosen for one in mismatched(votes, 18)]
    assert [len(own.tokens) for own in made] == [18, 17, 4, 18]
    assert made[0].tokens.tolist() == [*range(3, 18), 33, 34, 35]  # row 1's answer after row 0's prompt, cut
    assert all(own.scored >= 1 for own in made)


def test_a_run_whose_baseline_ran_out_of_memory_goes_on_with_half_the_budget(tmp_path: Path) -> None:
    def run(folder: Path, budget: int) -> dict[str, Tensor]:
        folder.mkdir()
        policy = make_policy(tiny("llama"), None, settings())
        work = (examples_of(some_pairs(17), "votes"), KTO(0.3), settings(token_budget=budget))
        train_policy(policy, work, Place(folder), Hooks(), other_model())
        return trained(policy)

    forward, baselines = Policy.forward, 0

    def limited(self: Policy, batch: PackedBatch) -> PairScores:
        nonlocal baselines
        if not torch.is_grad_enabled() and batch.tokens > 64:
            baselines += 1
            torch.empty(1 << 60, dtype=torch.uint8)
        return forward(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Policy, "forward", limited)
        got = run(tmp_path / "halved", 128)
    assert baselines
    first = read_journal(tmp_path / "halved" / "journal.jsonl")[0]
    assert first["note"].startswith("memory ran out at 128 tokens a micro-batch; going on with ")
    assert_same_bits(got, run(tmp_path / "small", first["token_budget"]))


def test_an_objective_that_needs_a_reference_does_not_go_without() -> None:
    with pytest.raises(RecipeError, match="DPO compares with a reference and none was given"):
        Goal(DPO(0.1))


@pytest.mark.parametrize("objective", [Supervised(), KTO(0.3)], ids=["sft", "kto"])
def test_a_run_that_was_stopped_ends_with_the_same_bits(tmp_path: object, objective: Objective) -> None:
    from pathlib import Path

    assert isinstance(tmp_path, Path)

    class StoppedError(Exception):
        pass

    def stop(record: dict[str, object], _: int) -> None:
        if record["step"] == 3:
            raise StoppedError

    def run(folder: Path, hooks: Hooks) -> dict[str, Tensor]:
        from evenhand.model.adapter import Adapter

        folder.mkdir(exist_ok=True)
        policy = make_policy(tiny("llama"), Adapter(4, 8.0, 0.1), settings())
        reference = AdapterOff(policy) if objective.traits.needs_reference else None
        examples = examples_of(some_pairs(17), objective.traits.examples)
        train_policy(policy, (examples, objective, settings()), Place(folder), hooks, reference)
        return trained(policy)

    wanted = run(tmp_path / "whole", Hooks())
    with pytest.raises(StoppedError):
        run(tmp_path / "stopped", Hooks(report=stop))
    assert_same_bits(run(tmp_path / "stopped", Hooks()), wanted)
