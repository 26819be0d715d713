"""Scores of many pairs: in the order given, whatever the batches, and equal to transformers in float64."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from architectures import VOCABULARY, tiny
from test_parity import some_pairs

from evenhand.errors import DataError
from evenhand.model.encode import EncodedPair, EncodedSide, side
from evenhand.model.forward import Policy
from evenhand.model.score import score_pairs
from evenhand.model.scores import ScoredPairs


def many_pairs(n: int = 24) -> list[EncodedPair]:
    """Pairs of all lengths in no order, some with a prompt in common."""
    draw = torch.Generator().manual_seed(3)

    def tokens(longest: int) -> list[int]:
        length = int(torch.randint(1, longest, (1,), generator=draw))
        return torch.randint(3, VOCABULARY, (length,), generator=draw).tolist()

    prompts = [tokens(30) for _ in range(n // 2)]
    found = []
    for i in range(n):
        prompt, chosen, rejected = prompts[i * 7 % len(prompts)], tokens(40), tokens(40)
        found.append(
            EncodedPair(i, f"id{i}", "g", side(prompt + chosen, len(prompt)), side(prompt + rejected, len(prompt)))
        )
    return found


def alone(model: torch.nn.Module, one: EncodedSide) -> float:
    """The summed log-probability of one answer from transformers' own logits, in float64."""
    ids = torch.from_numpy(one.tokens).long()[None]
    with torch.no_grad():
        log_probs = torch.log_softmax(model(input_ids=ids).logits[0].double(), -1)
    return sum(float(log_probs[i - 1, ids[0, i]]) for i in range(one.starts, len(one.tokens)))


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_scores_equal_transformers_in_float64(name: str) -> None:
    pairs = many_pairs(10) + some_pairs()
    exact = tiny(name).double()  # the fp32 numbers, made exact
    scores = score_pairs(Policy(tiny(name)), pairs, token_budget=100)
    np.testing.assert_allclose(scores.chosen_sum_B, [alone(exact, pair.chosen) for pair in pairs], rtol=1e-5)
    np.testing.assert_allclose(scores.rejected_sum_B, [alone(exact, pair.rejected) for pair in pairs], rtol=1e-5)
    assert scores.chosen_tokens_B.tolist() == [len(pair.chosen.tokens) - pair.chosen.starts for pair in pairs]
    assert scores.rejected_tokens_B.tolist() == [len(pair.rejected.tokens) - pair.rejected.starts for pair in pairs]
    assert scores.id_B == tuple(pair.id for pair in pairs)
    assert scores.row_B.tolist() == [pair.row for pair in pairs]


@pytest.mark.parametrize("budget", [1, 60, 333])
def test_scores_do_not_depend_on_the_token_budget(budget: int) -> None:
    policy, pairs = Policy(tiny("llama")), many_pairs()
    once, cut = score_pairs(policy, pairs, token_budget=100_000), score_pairs(policy, pairs, token_budget=budget)
    np.testing.assert_allclose(cut.chosen_sum_B, once.chosen_sum_B, rtol=1e-6)
    np.testing.assert_allclose(cut.rejected_sum_B, once.rejected_sum_B, rtol=1e-6)


def test_rows_keep_the_order_they_came_in() -> None:
    policy, pairs = Policy(tiny("llama")), many_pairs()
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(1)).tolist()
    straight, mixed = score_pairs(policy, pairs, 80), score_pairs(policy, [pairs[i] for i in order], 80)
    assert mixed.id_B == tuple(pairs[i].id for i in order)
    np.testing.assert_allclose(mixed.chosen_sum_B, straight.chosen_sum_B[order], rtol=1e-6)
    np.testing.assert_allclose(mixed.rejected_sum_B, straight.rejected_sum_B[order], rtol=1e-6)


def test_progress_counts_every_pair_once() -> None:
    seen: list[tuple[int, int]] = []
    score_pairs(Policy(tiny("llama")), many_pairs(), 60, lambda done, total: seen.append((done, total)))
    assert len(seen) > 3
    assert seen[-1] == (24, 24)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


@pytest.mark.parametrize("training", [True, False])
def test_the_model_comes_back_in_its_mode_and_without_gradients(training: bool) -> None:
    model = tiny("llama", attention_dropout=0.5)
    policy = Policy(model)
    policy.train(training)
    first, second = (score_pairs(policy, many_pairs(4)) for _ in range(2))
    assert np.array_equal(first.chosen_sum_B, second.chosen_sum_B)  # dropout would make them differ
    assert policy.training == model.training == training
    assert all(weight.grad is None for weight in model.parameters())


def test_no_pairs_give_no_scores() -> None:
    scores = score_pairs(Policy(tiny("llama")), [])
    assert len(scores) == 0
    assert scores.table().num_rows == 0


def example() -> ScoredPairs:
    sums = np.array([-10.0, -3.25]), np.array([-4.0, -8.5])
    return ScoredPairs(np.array([3, 9]), ("a", "b"), *sums, np.array([5, 2]), np.array([4, 17]))


def test_means_and_gaps_are_sums_over_their_own_counts() -> None:
    scores = example()
    assert scores.chosen_mean_B.tolist() == [-2.0, -1.625]
    assert scores.rejected_mean_B.tolist() == [-1.0, -0.5]
    assert scores.mean_gap_B.tolist() == [-1.0, -1.125]
    assert scores.sum_gap_B.tolist() == [-6.0, 5.25]


def test_scores_come_back_from_their_file(tmp_path: Path) -> None:
    pq.write_table(example().table(), tmp_path / "rows.parquet")
    names = [
        "row",
        "id",
        "chosen_sum",
        "rejected_sum",
        "chosen_tokens",
        "rejected_tokens",
        "chosen_mean",
        "rejected_mean",
    ]
    assert pq.read_schema(tmp_path / "rows.parquet").names == names
    back, given = ScoredPairs.read(tmp_path / "rows.parquet"), example()
    assert back.id_B == given.id_B
    for name in ("row_B", "chosen_sum_B", "rejected_sum_B", "chosen_tokens_B", "rejected_tokens_B"):
        assert getattr(back, name).dtype == getattr(given, name).dtype
        assert np.array_equal(getattr(back, name), getattr(given, name))


def test_a_file_without_our_columns_is_refused_by_name(tmp_path: Path) -> None:
    pq.write_table(pa.table({"row": [1], "id": ["a"], "chosen_sum": [0.0]}), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"rejected_sum.*chosen_tokens.*rejected_tokens.*evenhand score"):
        ScoredPairs.read(tmp_path / "rows.parquet")


@pytest.mark.parametrize("content", [None, "row,id\n1,a\n"], ids=["absent", "text"])
def test_what_is_no_parquet_file_is_refused(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "rows.parquet"
    if content is not None:
        file.write_text(content)
    with pytest.raises(DataError, match=r"rows\.parquet"):
        ScoredPairs.read(file)
