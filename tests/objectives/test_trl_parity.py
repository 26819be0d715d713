"""The same pairs through TRL's own CPOTrainer give the same loss and the same gradients."""

from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import tiny
from chat_tokenizers import chat_tokenizer
from datasets import Dataset, disable_progress_bars
from test_parity import assert_same_gradients, gradients
from trl.experimental.cpo import CPOConfig, CPOTrainer

from evenhand.data.schema import Message, PreferencePair
from evenhand.model.encode import Limits, encode_pairs
from evenhand.model.forward import Policy
from evenhand.model.modes import trl_encoder
from evenhand.model.pack import pack
from evenhand.objectives.simpo import SimPO

disable_progress_bars()
LIMIT = 128
OBJECTIVES = {
    "guide": SimPO(beta=2.0, margin=0.5),
    "llama3-v0.2": SimPO(beta=10.0, margin=0.3),
    "smoothed": SimPO(beta=2.5, margin=0.55, label_smoothing=0.1),
    "trl defaults": SimPO.from_paper(beta=0.1, gamma=0.5),
}


def ragged_pairs() -> list[PreferencePair]:
    """Short and long prompts and answers, a shared prompt, answers that begin alike, and one that is cut."""
    rows = [
        ("Where is my parcel?", "On its way.", "It left the harbour on Tuesday and should be with you by Friday."),
        ("Where is my parcel?", "It left the harbour on Tuesday.", "It left the harbour on Tuesday and is lost."),
        ("Hi", "Hello! How can I help you today? " * 2, "no"),
        ("I cannot log in to my account; the link in the mail is broken.", "Please restart.", "yes"),
        ("größer? 请稍等", "Das Paket ist noch unterwegs.", "18:00"),
        ("Tell me all", "Please restart the router, wait ten seconds. " * 12, "The answer is no."),
    ]
    return [PreferencePair(str(i), i, str(i), (Message("user", p),), c, r) for i, (p, c, r) in enumerate(rows)]


def trainer_for(objective: SimPO, model: Any, folder: Path) -> CPOTrainer:
    config = CPOConfig(
        output_dir=str(folder),
        loss_type="simpo",
        cpo_alpha=0.0,
        beta=objective.beta,
        simpo_gamma=objective.paper_gamma,
        label_smoothing=objective.label_smoothing,
        max_length=LIMIT,
        report_to="none",
        use_cpu=True,
        bf16=False,
        remove_unused_columns=False,
        activation_checkpointing=False,
        disable_tqdm=True,
    )
    columns = ("prompt", "chosen", "rejected")
    rows = Dataset.from_list([{name: pair.json()[name] for name in columns} for pair in ragged_pairs()])
    return CPOTrainer(model=model, args=config, train_dataset=rows, processing_class=chat_tokenizer("llama3"))


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_loss_and_every_gradient_equal_trl(objective: SimPO, tmp_path: Path) -> None:
    theirs = tiny("llama", vocab_size=512)
    trainer = trainer_for(objective, theirs, tmp_path)
    rows = [trainer.train_dataset[i] for i in range(len(trainer.train_dataset))]
    wanted = trainer.compute_loss(theirs, trainer.data_collator(rows))
    ours = tiny("llama", vocab_size=512)
    encoding = encode_pairs(ragged_pairs(), trl_encoder(chat_tokenizer("llama3"), LIMIT), Limits(1 << 30), "pairs")
    assert not encoding.refusals
    assert [pair.cut for pair in encoding.pairs] == [()] * 5 + [("chosen",)]
    scores = Policy(ours)(pack(encoding.pairs))
    loss = objective(scores).mean()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert_same_gradients(gradients(ours, loss), gradients(theirs, wanted))
    metrics = trainer._stored_metrics["train"]
    chosen, rejected = objective.rewards(scores)
    assert chosen.mean().item() == pytest.approx(metrics["rewards/chosen"][0], rel=1e-5)
    assert rejected.mean().item() == pytest.approx(metrics["rewards/rejected"][0], rel=1e-5)
    assert (scores.mean_gap_B > 0).double().mean().item() == pytest.approx(metrics["rewards/accuracies"][0])


def test_the_two_models_start_alike() -> None:
    for one, other in zip(tiny("llama", vocab_size=512).parameters(), tiny("llama", vocab_size=512).parameters()):
        assert torch.equal(one, other)
