"""A reward model on text: the rewards of the sequence classifier, what does not fit, and whose tokenizer it has."""

import math
from pathlib import Path

import pytest
import torch
from small_model import small_tokenizer
from transformers import LlamaConfig, LlamaForSequenceClassification

from evenhand.data.schema import Message
from evenhand.evaluation.judge import Question
from evenhand.model.forward import Policy
from evenhand.model.modes import Form
from evenhand.online.reward_model import RewardModel

PROMPTS = [(Message("user", "parcel window"),), (Message("user", "driver"),)]


@pytest.fixture
def model() -> RewardModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=400,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        num_labels=1,
    )
    made = LlamaForSequenceClassification(config).eval()
    return RewardModel.of("runs/reward", Policy(made), small_tokenizer(), Form(max_tokens=16))


def test_each_reply_gets_the_classifiers_own_logit(model: RewardModel) -> None:
    replies = ["refund", "ladder bottle"]
    found = model.rewards(PROMPTS, replies)
    model.policy.release()
    tokenizer = small_tokenizer()
    for prompt, reply, reward in zip(PROMPTS, replies, found):
        talk = [message.json() for message in (*prompt, Message("assistant", reply))]
        ids = tokenizer.apply_chat_template(talk, return_dict=True)["input_ids"][:-1]  # a line break ends the template
        with torch.no_grad():
            wanted = float(model.policy.model(input_ids=torch.tensor([ids])).logits[0, 0])
        assert reward == pytest.approx(wanted, abs=1e-6)
    assert model([[m.json() for m in prompt] for prompt in PROMPTS], replies) == pytest.approx(found.tolist())


def test_a_reply_longer_than_the_model_has_no_reward_and_its_pair_no_ruling(model: RewardModel) -> None:
    long = "glacier " * 80
    found = model.rewards(PROMPTS, ["refund", long])
    assert math.isfinite(found[0])
    assert math.isnan(found[1])
    rulings = model.judge().rule([Question("q", PROMPTS[0], "refund", long)], lambda *_: None)
    assert rulings[0].why == "cannot be scored"


def test_a_tokenizer_that_only_pads_otherwise_is_the_same(model: RewardModel) -> None:
    other = small_tokenizer()
    other.pad_token = other.eos_token
    assert "has the policy's tokenizer" in model.words(other)
    other.add_tokens(["parcel!"])
    assert "tokenised again" in model.words(other)


def test_the_name_of_the_judge_names_the_model(model: RewardModel) -> None:
    assert model.judge().name == f"reward model {Path('runs/reward')}"
