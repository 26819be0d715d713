"""TRL 1.16's own trainers give the same losses and rewards on the same tokens, policy and reference being two models."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from architectures import tiny
from chat_tokenizers import chat_tokenizer
from datasets import Dataset
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

from evenhand.model.adapter import Adapter, attach
from evenhand.model.encode import ABSENT, EncodedPair, EncodedSide, side
from evenhand.model.forward import Policy
from evenhand.model.pack import pack
from evenhand.model.reference import SecondModel
from evenhand.model.scores import PairScores
from evenhand.objectives.cpo import CPO
from evenhand.objectives.dpo import DPO
from evenhand.objectives.hinge import Hinge
from evenhand.objectives.ipo import IPO
from evenhand.objectives.kto import KTO
from evenhand.objectives.objective import Objective
from evenhand.objectives.orpo import ORPO
from evenhand.training.baseline import with_baseline
from evenhand.training.goal import Goal
from evenhand.training.ranks import Ranks

ROWS = [
    ("Where is my parcel?", "On its way.", "It left the harbour on Tuesday and should be with you by Friday."),
    ("Hi", "Hello! How can I help you today? " * 2, "no"),
    ("I cannot log in to my account; the link in the mail is broken.", "Please restart.", "yes"),
    ("Where is my parcel?", "It left the harbour on Tuesday.", "It left the harbour on Tuesday and is lost."),
]
QUIET: dict[str, Any] = {
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
    "activation_checkpointing": False,
}
DPO_TYPES: dict[str, tuple[str, float, Objective]] = {
    "sigmoid": ("sigmoid", 0.0, DPO(0.3)),
    "robust": ("robust", 0.2, DPO(0.3, label_smoothing=0.2, robust=True)),
    "length-normalised": ("sigmoid_norm", 0.0, DPO(0.3, length_normalised=True)),
    "ipo": ("ipo", 0.0, IPO(0.3)),
    "hinge": ("hinge", 0.0, Hinge(0.3)),
}


def two_models() -> tuple[Any, Any]:
    """A policy, and a reference that is another model."""
    policy, reference = tiny("llama", vocab_size=512), tiny("llama", vocab_size=512)
    with torch.no_grad():
        for i, weight in enumerate(reference.parameters()):
            weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(i)))
    return policy, reference


def tokens_of(ids: Any, attended: Any, answered: Any) -> EncodedSide:
    """A row of TRL's batch as the side that it is."""
    own = [int(token) for token, seen in zip(ids, attended) if seen]
    return side(own, len(own) - int(answered.sum()))


def turns(prompt: str, answer: str) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "completion": [{"role": "assistant", "content": answer}],
    }


@pytest.mark.parametrize("name", DPO_TYPES)
def test_dpo_and_its_relatives(name: str, tmp_path: Path) -> None:
    loss_type, smoothing, objective = DPO_TYPES[name]
    policy, reference = two_models()
    rows = [
        {key: turns(p, c)[key] for key in ("prompt",)}
        | {"chosen": turns(p, c)["completion"], "rejected": turns(p, r)["completion"]}
        for p, c, r in ROWS
    ]
    config = DPOConfig(str(tmp_path), loss_type=loss_type, label_smoothing=smoothing, beta=0.3, max_length=512, **QUIET)
    trainer = DPOTrainer(
        policy, reference, config, train_dataset=Dataset.from_list(rows), processing_class=chat_tokenizer("llama3")
    )
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(rows))])
    policy.eval()
    wanted = trainer.compute_loss(policy, batch)
    sides = [tokens_of(*row) for row in zip(batch["input_ids"], batch["attention_mask"], batch["completion_mask"])]
    pairs = [
        EncodedPair(i, str(i), str(i), chosen, rejected)
        for i, (chosen, rejected) in enumerate(zip(sides[:4], sides[4:]))
    ]
    goal = Goal(objective, SecondModel(Policy(reference), "other"))
    judged = goal.judged(Policy(policy), pairs)
    assert judged.loss_B.mean().item() == pytest.approx(wanted.item(), rel=1e-5)
    metrics = {key: values[-1] for key, values in trainer._metrics["eval"].items() if key.startswith("rewards")}
    if name != "length-normalised":  # whose rewards TRL logs unnormalised
        chosen, rejected = objective.rewards(judged.policy, judged.reference)
        assert chosen.mean().item() == pytest.approx(metrics["rewards/chosen"], rel=1e-4)
        assert (chosen - rejected).mean().item() == pytest.approx(metrics["rewards/margins"], rel=1e-4)
        assert (chosen > rejected).double().mean().item() == pytest.approx(metrics["rewards/accuracies"])


def test_kto_with_its_baseline_of_mismatched_answers(tmp_path: Path) -> None:
    policy, reference = two_models()
    labels = [True, False, False, True]
    rows = [{**turns(p, c), "label": label} for (p, c, _), label in zip(ROWS, labels)]
    config = KTOConfig(
        str(tmp_path),
        beta=0.3,
        desirable_weight=1.2,
        undesirable_weight=0.8,
        per_device_train_batch_size=4,
        max_length=512,
        **QUIET,
    )
    trainer = KTOTrainer(
        policy, reference, config, train_dataset=Dataset.from_list(rows), processing_class=chat_tokenizer("llama3")
    )
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    policy.eval()
    wanted = trainer.compute_loss(policy, batch)
    sides = [tokens_of(*row) for row in zip(batch["input_ids"], batch["attention_mask"], batch["completion_mask"])]
    examples = [
        EncodedPair(i, str(i), str(i), own if label else ABSENT, ABSENT if label else own)
        for i, (own, label) in enumerate(zip(sides, labels))
    ]
    ours = Policy(policy)
    goal = Goal(KTO(0.3, 1.2, 0.8), SecondModel(Policy(reference), "other"))
    aimed = with_baseline(goal, ours, examples, 512, (4096, Ranks(), False))
    (kl,) = trainer._metrics["eval"]["kl"]
    assert isinstance(aimed.objective, KTO)
    assert aimed.objective.baseline == pytest.approx(kl, rel=1e-4)
    assert kl > 0
    assert aimed.judged(ours, examples).loss_B.mean().item() == pytest.approx(wanted.item(), rel=1e-5)


def test_cpo_and_the_odds_of_orpo() -> None:
    generator = torch.Generator().manual_seed(0)
    sums = [-20 * torch.rand(6, generator=generator).double() for _ in range(2)]
    counts = [torch.randint(3, 12, (6,), generator=generator) for _ in range(2)]
    scores = PairScores(*sums, *counts)
    settings = {"beta": 0.3, "label_smoothing": 0.1, "loss_type": "sigmoid", "alpha": 0.0}
    trainer = SimpleNamespace(**settings, accelerator=SimpleNamespace(device="cpu"))
    wanted, chosen, rejected = CPOTrainer.cpo_loss(trainer, *sums)
    objective = CPO(0.3, 0.0, 0.1)
    torch.testing.assert_close(objective(scores), wanted, rtol=1e-12, atol=0)
    for own, other in zip(objective.rewards(scores), (chosen, rejected)):
        torch.testing.assert_close(own, other, rtol=1e-12, atol=0)
    odds, *_ = ORPOTrainer.odds_ratio_loss(trainer, scores.chosen_mean_B, scores.rejected_mean_B)
    torch.testing.assert_close(-scores.chosen_mean_B - ORPO(0.3)(scores), odds.double(), rtol=1e-5, atol=1e-6)


def test_a_reference_that_is_an_adapter_switched_off_is_the_base() -> None:
    from evenhand.model.reference import AdapterOff

    base, model = tiny("llama"), attach(tiny("llama"), Adapter(4, 8.0, 0.5))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0.0, 0.1)
    pairs = [EncodedPair(0, "a", "0", side([5, 6, 7, 8], 2), side([5, 6, 9], 2))]
    policy, packed = Policy(model).train(), pack(pairs)
    state = torch.get_rng_state()
    off = AdapterOff(policy)(pairs, packed)
    assert torch.equal(torch.get_rng_state(), state)  # nothing was dropped
    assert policy.training
    want, now = Policy(base)(packed), policy(packed)
    torch.testing.assert_close(off.chosen_sum_B, want.chosen_sum_B.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(off.rejected_sum_B, want.rejected_sum_B.detach(), rtol=1e-6, atol=0)
    assert not torch.allclose(now.chosen_sum_B, want.chosen_sum_B)
    assert now.chosen_sum_B.requires_grad
    assert not off.chosen_sum_B.requires_grad
    assert all(weight.requires_grad for name, weight in model.named_parameters() if "lora" in name)
