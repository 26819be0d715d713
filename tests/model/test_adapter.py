"""The fused LoRA layer gives PEFT's own numbers, forward and backward, and leaves PEFT's other modes alone."""

import pytest
import torch
from architectures import tiny
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from test_parity import assert_same_gradients, gradients, loss_by_forest, loss_by_rows, some_pairs

from evenhand.errors import ModelError
from evenhand.model.adapter import Adapter, attach
from evenhand.model.forward import Policy
from evenhand.model.pack import pack


def adapted(name: str = "llama") -> PeftModel:
    model = attach(tiny(name), Adapter(rank=4, alpha=8))
    torch.manual_seed(1)
    for weight_name, weight in model.named_parameters():
        if "lora_B" in weight_name:  # zero at the start, which would leave half of the gradients untested
            torch.nn.init.normal_(weight, std=0.1)
    return model


def unfused(model: PeftModel) -> PeftModel:
    for module in model.modules():
        if type(module) is LoraLinear:
            del module.forward
    return model


@pytest.mark.parametrize("name", ["llama", "qwen2", "phi"])
def test_fused_layers_give_peft_gradients(name: str) -> None:
    pairs = some_pairs()
    plain = unfused(adapted(name))
    wanted = loss_by_rows(plain, pairs)
    theirs = gradients(plain, wanted)
    fused = adapted(name)
    loss = loss_by_forest(Policy(fused), pack(pairs))
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    ours = gradients(fused, loss)
    assert ours
    assert all("lora_" in weight for weight in ours)
    assert_same_gradients(ours, theirs)


def test_switching_the_adapter_off_gives_the_base_model() -> None:
    ids = torch.arange(3, 30)[None]
    base = tiny("llama")(ids).logits
    model = adapted()
    with torch.no_grad():
        assert not torch.allclose(model(ids).logits, base)
        with model.disable_adapter():
            assert torch.equal(model(ids).logits, base)


def test_merging_keeps_the_numbers() -> None:
    ids = torch.arange(3, 30)[None]
    model = adapted()
    with torch.no_grad():
        before = model(ids).logits
        after = model.merge_and_unload()(ids).logits
    assert torch.allclose(before, after, atol=1e-4)


def test_a_target_that_names_no_layer_is_refused() -> None:
    with pytest.raises(ModelError, match="no_such_layer"):
        attach(tiny("llama"), Adapter(rank=4, alpha=8, targets=("no_such_layer",)))
