"""A reward model on the forest engine, against transformers' own sequence classifier on padded rows."""

from pathlib import Path

import numpy as np
import pytest
import torch
from architectures import VOCABULARY
from small_model import save_small_model
from small_training import some_pairs
from transformers import (
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    Qwen2Config,
    Qwen2ForSequenceClassification,
)

from evenhand.errors import ModelError
from evenhand.model.adapter import Adapter, attach
from evenhand.model.forward import Policy
from evenhand.model.load import find_source, is_reward_model, load_model
from evenhand.model.pack import pack
from evenhand.model.score import score_pairs

SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "num_labels": 1,
}
CPU = torch.device("cpu")


def classifier(make=LlamaForSequenceClassification, config=LlamaConfig, **changes):
    torch.manual_seed(0)
    model = make(config(**SMALL | changes)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3.0 if weight.ndim == 2 else 1.0)
    return model


def theirs(model, side) -> float:
    """transformers' own pooling: the last token that is not padding, here in a row with padding after it."""
    tokens = [*map(int, side.tokens), 0, 0]
    mask = torch.tensor([[1] * len(side.tokens) + [0, 0]])
    with torch.no_grad():
        return float(model(input_ids=torch.tensor([tokens]), attention_mask=mask).logits[0, 0])


@pytest.mark.parametrize(
    "model",
    [classifier(), classifier(Qwen2ForSequenceClassification, Qwen2Config, use_sliding_window=False)],
    ids=["llama", "qwen2"],
)
def test_rewards_are_those_of_the_sequence_classifier(model) -> None:
    pairs = some_pairs(9, largest_group=3)
    policy = Policy(model)
    assert policy.padded_because is None
    assert policy.gives_rewards
    scored = score_pairs(policy, pairs)
    policy.release()
    for i, pair in enumerate(pairs):
        assert scored.chosen_mean_B[i] == pytest.approx(theirs(model, pair.chosen), abs=2e-6)
        assert scored.rejected_mean_B[i] == pytest.approx(theirs(model, pair.rejected), abs=2e-6)
    assert scored.chosen_tokens_B.tolist() == [pair.chosen.scored for pair in pairs]


def test_padded_rows_give_the_same() -> None:
    policy, pairs = Policy(classifier()), some_pairs(6, seed=2)
    with torch.no_grad():
        shared = policy(pack(pairs)).mean_gap_B
        policy.padded_because = "this test says so"
        padded = policy(pack(pairs)).mean_gap_B
    assert torch.allclose(shared, padded, atol=1e-6)


def test_a_reward_head_is_trained_in_fp32_beside_a_bf16_adapter() -> None:
    model = classifier().to(torch.bfloat16)
    model.score.float()
    policy = Policy(attach(model, Adapter(2, 4)))
    trained = {name: weight for name, weight in policy.named_parameters() if weight.requires_grad}
    heads = {name for name in trained if "score" in name}
    assert {trained[name].dtype for name in heads} == {torch.float32}
    assert {weight.dtype for name, weight in trained.items() if name not in heads} == {torch.bfloat16}
    policy(pack(some_pairs(3))).mean_gap_B.sum().backward()
    assert all(torch.isfinite(weight.grad).all() for weight in trained.values())
    assert heads


def test_folders_tell_whether_they_hold_rewards(tmp_path: Path) -> None:
    chat = find_source(str(save_small_model(tmp_path / "chat")))
    assert not is_reward_model(chat)
    torch.manual_seed(1)
    made = load_model(chat, torch.float32, CPU, rewards=True)
    assert made.config.num_labels == 1
    made.save_pretrained(tmp_path / "whole")
    whole = find_source(str(tmp_path / "whole"))
    assert is_reward_model(whole)
    again = load_model(whole, torch.bfloat16, CPU)
    assert again.score.weight.dtype == torch.float32
    wrapped = attach(made, Adapter(2, 4))
    with torch.no_grad():
        made.score.weight.add_(1.0)
    wrapped.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    adapter = find_source(str(tmp_path / "adapter"))
    assert is_reward_model(adapter)
    pairs = some_pairs(4)
    before, after = (score_pairs(Policy(m), pairs) for m in (wrapped, load_model(adapter, torch.float32, CPU)))
    assert np.allclose(before.mean_gap_B, after.mean_gap_B, atol=1e-6)
    assert np.abs(before.mean_gap_B).min() > 0
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "whole")
    assert torch.equal(plain.score.weight, load_model(whole, torch.float32, CPU).score.weight)


def test_a_classifier_of_several_labels_is_refused() -> None:
    with pytest.raises(ModelError, match="3 labels"):
        Policy(classifier(num_labels=3))
