"""The contenders: each takes the same model and steps, and gives the seconds and the mean loss of the measured steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tokenizers import Tokenizer, models
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, TrainerCallback

from evenhand.model.adapter import Adapter
from evenhand.model.encode import EncodedPair
from evenhand.model.forward import causal
from evenhand.model.score import score_pairs
from evenhand.objectives.simpo import SimPO
from evenhand.training import plan
from evenhand.training.budget import default_budget
from evenhand.training.goal import Goal
from evenhand.training.optim import MasterAdamW
from evenhand.training.share import Share
from evenhand.training.step import train_step
from evenhand.training.train import Training, make_policy
from ideas import IDEAS
from machine import now
from work import MAX_TOKENS, Work

BETA, MARGIN, RANK, ALPHA = 2.0, 0.5, 16, 32
RATE, LARGEST = 1e-9, 1.0  # a rate that moves nothing, so that all steps of all contenders see the same weights


@dataclass(frozen=True, slots=True)
class Setting:
    """How a contender runs: what is trained, its micro-batch in pairs or tokens, and whether it recomputes."""

    train: str  # "lora" or "full"
    micro: int = 1
    budget: int | None = None
    checkpoint: bool = False


Result = tuple[list[float], float]  # seconds of each measured step, mean loss over their pairs


def run(name: str, model: Any, work: Work, setting: Setting) -> Result:
    """Run one contender by its name: TRL, Liger, a form of evenhand, or an idea of it taken away."""
    if name in IDEAS:
        with IDEAS[name]():
            return run_evenhand(model, work, setting)
    return CONTENDERS[name](model, work, setting)


def run_evenhand(model: Any, work: Work, setting: Setting) -> Result:
    """evenhand's own training step."""
    policy, optimizer, settings = prepared(model, work, setting)
    policy.train()
    seconds, losses = [], []
    for pairs in work.steps:
        began = now(policy.device)
        micro = plan.micro_batches(pairs, settings.token_budget or default_budget(policy.device))[0]
        losses.append(
            train_step(policy, Goal(SimPO(BETA, MARGIN)), optimizer, Share.alone(micro), (RATE, LARGEST)).loss
        )
        seconds.append(now(policy.device) - began)
    return seconds[1:], mean(losses[1:])


def run_pairs_alone(model: Any, work: Work, setting: Setting) -> Result:
    """The pairs of ranked items as if they had nothing in common: each its own tree."""
    with IDEAS["with a micro-batch a pair"]():
        return run_evenhand(model, work, setting)


def run_scoring(model: Any, work: Work, setting: Setting) -> Result:
    """The pairs' scores without a gradient."""
    policy, _, settings = prepared(model, work, setting)
    seconds, losses = [], []
    for pairs in work.steps:
        began = now(policy.device)
        scores = score_pairs(policy, pairs, settings.token_budget or default_budget(policy.device))
        seconds.append(now(policy.device) - began)
        gap_B = torch.from_numpy(scores.mean_gap_B)
        losses.append(float(-nn.functional.logsigmoid(BETA * (gap_B - MARGIN)).mean()))
    return seconds[1:], mean(losses[1:])


def prepared(model: Any, work: Work, setting: Setting) -> tuple[Any, MasterAdamW, Training]:
    """The policy and its optimizer as a run makes them."""
    settings = Training(
        batch_pairs=len(work.steps[0]),
        steps=len(work.steps),
        learning_rate=RATE,
        seed=0,
        token_budget=setting.budget,
        checkpoint_activations=setting.checkpoint,
    )
    policy = make_policy(model, Adapter(RANK, ALPHA) if setting.train == "lora" else None, settings)
    return policy, MasterAdamW(policy, 0.0), settings


def run_liger(model: Any, work: Work, setting: Setting) -> Result:
    """Liger's chunked loss on padded rows, in a step that is otherwise evenhand's."""
    from liger_kernel.chunked_loss import LigerFusedLinearSimPOLoss

    policy, optimizer, _ = prepared(model, work, setting)
    policy.train()
    inner = causal(policy.model)
    # Compiled on a GPU, as its authors have it; on a CPU that needs a compiler and minutes.
    fused = LigerFusedLinearSimPOLoss(
        beta=BETA, gamma=BETA * MARGIN, compute_nll_loss=False, compiled=policy.device.type == "cuda"
    )
    seconds, losses = [], []
    for pairs in work.steps:
        began, loss = now(policy.device), 0.0
        for part in (pairs[i : i + setting.micro] for i in range(0, len(pairs), setting.micro)):
            tokens_SL, mask_SL, target_SL = (x.to(policy.device) for x in padded(part))
            hidden_SLd = inner.base_model(input_ids=tokens_SL, attention_mask=mask_SL, use_cache=False)[0]
            found = fused(inner.get_output_embeddings().weight, hidden_SLd[:, :-1], target_SL[:, 1:])[0]
            (found * len(part) / len(pairs)).backward()
            loss += float(found) * len(part) / len(pairs)
        optimizer.gradient_norm(LARGEST)
        optimizer.step(RATE)
        seconds.append(now(policy.device) - began)
        losses.append(loss)
    return seconds[1:], mean(losses[1:])


def padded(pairs: Sequence[EncodedPair]) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, mask and targets as rows, the chosen ones first; what is not scored is -100."""
    sides = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    rows = [torch.from_numpy(s.tokens).long() for s in sides]
    targets = [torch.cat([torch.full((s.starts,), -100), row[s.starts :]]) for s, row in zip(sides, rows)]
    masks = [torch.ones_like(row) for row in rows]
    pad = nn.utils.rnn.pad_sequence
    return pad(rows, batch_first=True), pad(masks, batch_first=True), pad(targets, True, -100)


class Clock(TrainerCallback):
    """The seconds and the losses of a trainer's steps."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.began = device, 0.0
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.began = now(self.device)

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds.append(now(self.device) - self.began)

    def on_log(self, *args: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


def run_trl(model: Any, work: Work, setting: Setting) -> Result:
    """TRL's CPOTrainer: loss_type simpo, no NLL term, gamma in reward units, fed with the same tokens in order."""
    from datasets import Dataset
    from peft import LoraConfig
    from torch.utils.data import SequentialSampler
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    class InOrder(CPOTrainer):
        def tokenize_row(self, feature: dict[str, Any], model: Any = None) -> dict[str, Any]:
            return row(pairs[feature["index"]])

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return SequentialSampler(self.train_dataset)

    pairs = [pair for step in work.steps for pair in step]
    texts = [{"prompt": "p", "chosen": "a", "rejected": "b", "index": i} for i in range(len(pairs))]
    clock = Clock(model.device)
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    with TemporaryDirectory() as folder:
        arguments = CPOConfig(
            output_dir=folder,
            loss_type="simpo",
            cpo_alpha=0.0,
            beta=BETA,
            simpo_gamma=BETA * MARGIN,
            max_length=MAX_TOKENS,
            per_device_train_batch_size=setting.micro,
            gradient_accumulation_steps=len(work.steps[0]) // setting.micro,
            max_steps=len(work.steps),
            learning_rate=RATE,
            lr_scheduler_type="constant",
            logging_steps=1,
            report_to="none",
            save_strategy="no",
            bf16=False,
            use_cpu=model.device.type == "cpu",
            gradient_checkpointing=setting.checkpoint,
            gradient_checkpointing_kwargs={"use_reentrant": False} if setting.checkpoint else None,
            disable_tqdm=True,
        )
        trainer = InOrder(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(texts),
            processing_class=stand_in(),
            peft_config=lora if setting.train == "lora" else None,
            callbacks=[clock],
        )
        trainer.train()
    return clock.seconds[1:], mean(clock.losses[1:])


def row(pair: EncodedPair) -> dict[str, list[int]]:
    """A pair as CPOTrainer's collator wants it."""
    made = {"prompt_input_ids": pair.chosen.tokens[: pair.chosen.starts].tolist()}
    made["prompt_attention_mask"] = [1] * pair.chosen.starts
    for name, s in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        tokens = s.tokens.tolist()
        made[f"{name}_input_ids"] = tokens
        made[f"{name}_attention_mask"] = [1] * len(tokens)
        made[f"{name}_labels"] = [-100] * s.starts + tokens[s.starts :]
    return made


def stand_in() -> PreTrainedTokenizerFast:
    """A tokenizer for a trainer that insists on one: the tokens are made already."""
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def mean(values: Sequence[float]) -> float:
    """The mean."""
    return sum(values) / len(values)


CONTENDERS: dict[str, Callable[[Any, Work, Setting], Result]] = {
    "TRL": run_trl,
    "Liger": run_liger,
    "each pair alone": run_pairs_alone,
    "scoring": run_scoring,
    "LoRA": lambda model, work, setting: run_evenhand(model, work, Setting("lora", budget=setting.budget)),
    "full": lambda model, work, setting: run_evenhand(model, work, Setting("full", budget=setting.budget)),
}
