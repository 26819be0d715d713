"""`train` from Python: a plain model in, the same model trained out, and given back as it came whatever happens."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from small_model import rows, small_llama, small_tokenizer, write_rows
from small_training import assert_same_bits, settings, trained

from evenhand import Adapter, Form, SimPO, evaluate, read_pairs, train
from evenhand.data.schema import PreferencePair
from evenhand.errors import DataError, ModelError, NonFiniteError, RecipeError, UserError
from evenhand.files import held

OBJECTIVE = SimPO(beta=2.0, margin=0.5)
QUICK = settings(steps=3, token_budget=256)


def generated(model: torch.nn.Module) -> torch.Tensor:
    found: torch.Tensor = model.generate(  # type: ignore[operator]
        torch.arange(3, 9)[None], max_new_tokens=3, do_sample=False, eos_token_id=2, pad_token_id=0
    )
    return found


def some_pairs(tmp_path: Path, count: int = 12) -> tuple[PreferencePair, ...]:
    return read_pairs(write_rows(tmp_path / "pairs.jsonl", rows(count)))[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_comes_back_trained_and_ready(tmp_path: Path, dtype: torch.dtype) -> None:
    model, pairs = small_llama().to(dtype), some_pairs(tmp_path)
    before, attention = trained(model), model.config._attn_implementation
    longer = settings(steps=12, token_budget=256, learning_rate=5e-3)
    gap = evaluate(model, small_tokenizer(), pairs).scored.mean_gap_B.mean()
    back = train(model, small_tokenizer(), pairs, OBJECTIVE, longer)
    assert back is model
    assert model.config._attn_implementation == attention
    assert not model.training
    assert generated(model).shape[1] > 6
    assert any(not torch.equal(before[name], weight) for name, weight in trained(model).items())
    assert evaluate(model, small_tokenizer(), pairs).scored.mean_gap_B.mean() > gap + 0.1
    model(input_ids=torch.arange(9)[None], labels=torch.arange(9)[None]).loss.backward()
    assert all(weight.grad is not None for weight in model.parameters())  # nothing catches them any more


def test_with_an_adapter_the_base_stays_as_it_is(tmp_path: Path) -> None:
    model = small_llama()
    wrapped = train(model, small_tokenizer(), some_pairs(tmp_path), OBJECTIVE, QUICK, adapter=Adapter(4, 8.0))
    assert isinstance(wrapped, PeftModel)
    assert_same_bits(trained(wrapped.unload()), {})
    assert_same_bits(dict(model.named_parameters()), dict(small_llama().named_parameters()))


def test_a_folder_is_resumed_and_a_file_is_read(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "pairs.jsonl", rows(12))
    first = train(small_llama(), small_tokenizer(), file, OBJECTIVE, QUICK, folder=tmp_path / "run")
    journal = (tmp_path / "run" / "journal.jsonl").read_text()
    again = train(small_llama(), small_tokenizer(), str(file), OBJECTIVE, QUICK, folder=tmp_path / "run")
    alone = train(small_llama(), small_tokenizer(), some_pairs(tmp_path), OBJECTIVE, QUICK)
    assert_same_bits(trained(again), trained(first))
    assert_same_bits(trained(alone), trained(first))
    assert (tmp_path / "run" / "journal.jsonl").read_text() == journal


def test_recomputed_activations_change_nothing(tmp_path: Path) -> None:
    pairs = some_pairs(tmp_path)
    plain = train(small_llama(), small_tokenizer(), pairs, OBJECTIVE, QUICK)
    careful = settings(steps=3, token_budget=256, checkpoint_activations=True)
    recomputed = trained(train(small_llama(), small_tokenizer(), pairs, OBJECTIVE, careful))
    for name, weight in trained(plain).items():
        assert torch.allclose(recomputed[name], weight, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_run_that_fails_gives_the_model_back_too(tmp_path: Path, dtype: torch.dtype) -> None:
    model = small_llama().to(dtype)
    attention = model.config._attn_implementation
    handle = model.model.embed_tokens.weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(NonFiniteError, match="the gradient is not finite"):
        train(model, small_tokenizer(), some_pairs(tmp_path), OBJECTIVE, QUICK)
    handle.remove()
    assert model.config._attn_implementation == attention
    model.zero_grad()
    model(input_ids=torch.arange(9)[None], labels=torch.arange(9)[None]).loss.backward()
    assert all(weight.grad is not None for weight in model.parameters())
    assert generated(model.eval()).shape[1] > 6


def test_no_usable_pair_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the pairs given: none of 12 pairs can be used"):
        train(small_llama(), small_tokenizer(), some_pairs(tmp_path), OBJECTIVE, QUICK, form=Form(max_tokens=4))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (
            {"objective": SimPO(beta=10.0, margin=0.1)},
            r"objective.beta \(2.0, now 10.0\), objective.margin \(0.5, now 0.1\)",
        ),
        (
            {"training": settings(steps=3, token_budget=256, learning_rate=5e-3)},
            r"training.learning_rate \(0.001, now 0.005\); choose another --out, allow it with --allow-change training.learning_rate",
        ),
        ({"swap": True}, "tokens"),
        ({"adapter": Adapter(2, 4.0)}, r".*weights; choose another --out, or remove"),
    ],
)
def test_a_folder_of_another_run_is_refused_by_what_differs(tmp_path: Path, change: dict[str, Any], name: str) -> None:
    pairs = some_pairs(tmp_path)
    train(small_llama(), small_tokenizer(), pairs, OBJECTIVE, QUICK, folder=tmp_path / "run")
    other = pairs[::-1] if change.get("swap") else pairs
    with pytest.raises(RecipeError, match=f"another {name}"):
        train(
            small_llama(),
            small_tokenizer(),
            other,
            change.get("objective", OBJECTIVE),
            change.get("training", QUICK),
            adapter=change.get("adapter"),
            folder=tmp_path / "run",
        )


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (Adapter(4, 16.0), r"adapter.lora_alpha \(8.0, now 16.0\); choose"),
        (Adapter(4, 8.0, 0.1), r"adapter.lora_dropout \(0.0, now 0.1\); choose"),
        (None, "model; choose"),
    ],
)
def test_another_base_or_adapter_of_the_same_shapes_is_refused(
    tmp_path: Path, change: Adapter | None, name: str
) -> None:
    pairs, usual, base = some_pairs(tmp_path), Adapter(4, 8.0), small_llama()
    train(small_llama(), small_tokenizer(), pairs, OBJECTIVE, QUICK, adapter=usual, folder=tmp_path / "run")
    if change is None:
        with torch.no_grad():
            base.model.norm.weight.mul_(1.01)
    with pytest.raises(RecipeError, match=f"another {name}"):
        train(base, small_tokenizer(), pairs, OBJECTIVE, QUICK, adapter=change or usual, folder=tmp_path / "run")


def test_what_moves_no_number_may_change_between_two_starts(tmp_path: Path) -> None:
    pairs = some_pairs(tmp_path)
    train(small_llama(), small_tokenizer(), pairs, OBJECTIVE, QUICK, folder=tmp_path / "run")
    freer = settings(steps=3, token_budget=64, checkpoint_activations=True, keep_checkpoints=1)
    train(small_llama(), small_tokenizer(), pairs, OBJECTIVE, freer, folder=tmp_path / "run")


def test_two_processes_never_share_a_folder(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with held(tmp_path / "run"), pytest.raises(UserError, match="in use by another process"):
        train(small_llama(), small_tokenizer(), some_pairs(tmp_path), OBJECTIVE, QUICK, folder=tmp_path / "run")
    train(small_llama(), small_tokenizer(), some_pairs(tmp_path), OBJECTIVE, QUICK, folder=tmp_path / "run")


def test_a_model_in_float16_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="float16"):
        train(small_llama().half(), small_tokenizer(), some_pairs(tmp_path), OBJECTIVE, QUICK)


def test_a_pair_beyond_the_models_positions_is_refused_by_name(tmp_path: Path) -> None:
    model = small_llama()
    model.config.max_position_embeddings = 8
    with pytest.raises(DataError, match=r"row \d+ has \d+ tokens and the model has 8 positions"):
        train(model, small_tokenizer(), some_pairs(tmp_path), OBJECTIVE, QUICK)
