"""A policy leaves its model as it found it, says why it pads, refuses broken weights, and checkpoints for free."""

import pytest
import torch
from architectures import tiny
from test_parity import assert_same_gradients, gradients, loss_by_forest, some_pairs
from torch import nn

from evenhand.errors import ModelError
from evenhand.model import attention
from evenhand.model.adapter import Adapter, attach
from evenhand.model.attention import ForestUnsupportedError
from evenhand.model.forward import Policy, causal, output_head, padded_sums, probe_batch, serving, use_attention
from evenhand.model.head import LogitForm
from evenhand.model.pack import pack


@pytest.mark.parametrize(("name", "plain"), [("llama", "sdpa"), ("gemma2", "eager")])
def test_serving_generates_with_plain_attention_and_gives_the_model_back(name: str, plain: str) -> None:
    model = tiny(name)
    untouched = model.generate(torch.arange(3, 12)[None], max_new_tokens=5, do_sample=False)
    policy = Policy(model)
    model.train()
    policy(pack(some_pairs()))
    assert model.config._attn_implementation == attention.NAME
    with serving(policy.model) as served:
        assert served is model
        assert model.config._attn_implementation == plain
        assert not model.training
        assert torch.equal(served.generate(torch.arange(3, 12)[None], max_new_tokens=5, do_sample=False), untouched)
    assert model.config._attn_implementation == attention.NAME
    assert model.training


@pytest.mark.parametrize("training", [True, False])
def test_serving_gives_the_model_back_after_an_error_too(training: bool) -> None:
    model = tiny("llama").train(training)
    Policy(model)(pack(some_pairs()))
    with pytest.raises(KeyError), serving(model):
        raise KeyError
    assert (model.config._attn_implementation, model.training) == (attention.NAME, training)


def test_serving_leaves_the_attention_that_a_model_came_with() -> None:
    model = tiny("llama")
    use_attention(model, "eager")
    with serving(model):
        assert model.config._attn_implementation == "eager"
    assert model.config._attn_implementation == "eager"


def test_a_second_policy_on_a_model_is_as_good_as_the_first() -> None:
    model, batch = tiny("llama"), pack(some_pairs())
    first = Policy(model)
    wanted = first(batch).chosen_sum_B
    second = Policy(model)
    assert second.padded_because is None
    assert torch.equal(second(batch).chosen_sum_B, wanted)
    second.release()
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", ["sdpa", "eager"])
def test_release_restores_the_attention_and_the_numbers(name: str) -> None:
    model, ids = tiny("llama"), torch.arange(3, 30)[None]
    use_attention(model, name)
    with torch.no_grad():
        before = model(ids).logits
    policy = Policy(model)
    policy(pack(some_pairs()))
    policy.release()
    assert model.config._attn_implementation == name
    with torch.no_grad():
        assert torch.equal(model(ids).logits, before)


def test_a_policy_keeps_the_mode_of_its_model() -> None:
    for training in (True, False):
        model = tiny("llama").train(training)
        assert Policy(model).model.training is training


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_model_with_broken_weights_is_refused(poison: float) -> None:
    model = tiny("llama")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = poison
    with pytest.raises(ModelError, match="not finite"):
        Policy(model)


@pytest.mark.parametrize("adapted", [False, True], ids=["full", "adapter"])
def test_checkpointing_gives_the_same_gradients(adapted: bool) -> None:
    found = []
    for checkpointed in (False, True):
        model = tiny("llama")
        policy_model = attach(model, Adapter(rank=4, alpha=8)) if adapted else model
        if adapted:
            torch.manual_seed(1)
            for name, weight in policy_model.named_parameters():
                if "lora_" in name:
                    nn.init.normal_(weight, std=0.1)
        policy = Policy(policy_model)
        model.train()
        calls = count_calls(model.model.layers[0].self_attn)
        if checkpointed:
            model.activation_checkpointing_enable({"use_reentrant": False})
            if adapted:
                model.enable_input_require_grads()
        loss = loss_by_forest(policy, pack(some_pairs()))
        found.append((loss.item(), gradients(policy_model, loss)))
        assert len(calls) == (2 if checkpointed else 1)
    assert found[0][0] == found[1][0]
    assert_same_gradients(found[1][1], found[0][1], tolerance=1e-6)


def count_calls(module: nn.Module) -> list[int]:
    calls: list[int] = []
    module.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


def test_counts_and_sums_belong_to_the_pairs_they_came_with() -> None:
    policy, pairs = Policy(tiny("llama")), some_pairs()
    scores = policy(pack(pairs))
    assert scores.chosen_tokens_B.tolist() == [pair.chosen.scored for pair in pairs]
    assert scores.rejected_tokens_B.tolist() == [pair.rejected.scored for pair in pairs]
    for i, pair in enumerate(pairs):
        alone = policy(pack([pair]))
        assert alone.chosen_sum_B.item() == pytest.approx(scores.chosen_sum_B[i].item(), rel=1e-5)
        assert alone.rejected_sum_B.item() == pytest.approx(scores.rejected_sum_B[i].item(), rel=1e-5)


def test_the_adapter_is_part_of_the_policy() -> None:
    model = attach(tiny("llama"), Adapter(rank=4, alpha=8))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.constant_(weight, 0.1)
    policy, batch = Policy(model), pack(some_pairs())
    assert causal(model) is causal(policy.model)
    with torch.no_grad():
        adapted = policy(batch).chosen_sum_B
        torch.testing.assert_close(padded_sums(policy, batch)[batch.chosen_B], adapted, rtol=1e-5, atol=1e-4)
        with model.disable_adapter():
            assert not torch.allclose(policy(batch).chosen_sum_B, adapted, rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("llama", LogitForm()),
        ("cohere", LogitForm(scale=0.25)),
        ("granite", LogitForm(scale=0.25)),
        ("gemma2", LogitForm(cap=3.0)),
    ],
)
def test_the_head_knows_what_a_decoder_does_to_its_logits(name: str, form: LogitForm) -> None:
    model = tiny(name)
    head = output_head(model)
    assert head.form == form
    assert head.weight_Vd is model.get_output_embeddings().weight


def test_an_output_layer_that_is_no_plain_matrix_is_padded_and_named() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    model = tiny("llama")
    layer = Doubled(64, 199, bias=False)
    layer.weight = model.lm_head.weight
    model.lm_head = layer
    with pytest.raises(ForestUnsupportedError, match="Doubled"):
        output_head(model)
    assert "Doubled" in str(Policy(model).padded_because)


def test_a_decoder_with_other_numbers_on_a_forest_is_found_out() -> None:
    """A layer that looks at its neighbours in the layout, as a convolution or a recurrence does."""
    model = tiny("llama")
    model.model.layers[0].mlp.register_forward_hook(lambda module, inputs, out: out + inputs[0].roll(1, dims=1))
    policy = Policy(model)
    assert "other numbers on a forest" in str(policy.padded_because)
    assert model.config._attn_implementation == "sdpa"


def test_the_probe_shares_a_prompt_and_a_beginning() -> None:
    batch = probe_batch(199)
    assert batch.tokens < sum(len(one.tokens) for one in batch.sequences)
    assert len(batch.sequences) == 4
