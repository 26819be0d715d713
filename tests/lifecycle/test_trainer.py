"""Scripts written against TRL's documentation, with another import, and TRL beside them."""

import dataclasses
import itertools
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import tiny
from chat_tokenizers import chat_tokenizer
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, EarlyStoppingCallback, HfArgumentParser, TrainerCallback
from trl import DPOConfig as TheirDPOConfig
from trl import DPOTrainer as TheirDPOTrainer
from trl.experimental.cpo import CPOConfig as TheirCPOConfig
from trl.experimental.cpo import CPOTrainer as TheirCPOTrainer

from evenhand import IPO, DPOConfig, DPOTrainer, SimPOConfig, SimPOTrainer
from evenhand.errors import DataError, EvenhandError, ModelError, RecipeError
from evenhand.training.journal import read_journal

disable_progress_bars()
WORDS = ["parcel", "harbour", "Friday", "router", "account", "mail", "yes", "no"]
ROWS = [
    {
        "prompt": [{"role": "user", "content": f"Where is my {WORDS[i % 4]}?"}],
        "chosen": [{"role": "assistant", "content": f"It is {WORDS[i % 8]}, and should be with you by Friday {i}."}],
        "rejected": [{"role": "assistant", "content": f"The answer is {WORDS[(i + 3) % 8]} {i}."}],
    }
    for i in range(8)
]
QUIET: dict[str, Any] = {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "logging_steps": 1}
PLAIN = {"lr_scheduler_type": "constant", "max_steps": 3, "per_device_train_batch_size": 8, "learning_rate": 1e-3}


def rows() -> Dataset:
    return Dataset.from_list(ROWS)


def model() -> Any:
    return tiny("llama", vocab_size=512)


def losses(trainer: Any) -> list[float]:
    return [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]


def simpo(folder: Path, **changes: Any) -> SimPOConfig:
    return SimPOConfig(output_dir=str(folder), beta=2.0, simpo_gamma=1.0, **QUIET | PLAIN | changes)


def test_simpo_takes_the_steps_that_trl_takes(tmp_path: Path) -> None:
    theirs = TheirCPOTrainer(
        model=model(),
        args=TheirCPOConfig(
            output_dir=str(tmp_path / "trl"),
            loss_type="simpo",
            cpo_alpha=0.0,
            beta=2.0,
            simpo_gamma=1.0,
            bf16=False,
            **{"activation_checkpointing": False, "save_strategy": "no", **QUIET, **PLAIN},
        ),
        train_dataset=rows(),
        processing_class=chat_tokenizer("llama3"),
    )
    theirs.train()
    ours = SimPOTrainer(
        model=model(),
        args=simpo(tmp_path / "ours", loss_type="simpo", cpo_alpha=0.0, truncation_mode="keep_start", max_length=1024),
        train_dataset=rows(),
        processing_class=chat_tokenizer("llama3"),
    )
    result = ours.train()
    assert losses(ours) == pytest.approx(losses(theirs), rel=1e-4)
    assert result.global_step == 3
    assert result.training_loss == pytest.approx(theirs.state.log_history[-1]["train_loss"], rel=1e-4)
    told, known = ours.state.log_history[0], theirs.state.log_history[0]
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "learning_rate"):
        assert told[name] == pytest.approx(known[name], rel=1e-4), name
    assert told["logps/chosen"] == pytest.approx(known["logps/chosen"], rel=1e-4)


@pytest.mark.parametrize("precompute", [False, True])
def test_dpo_takes_the_steps_that_trl_takes(tmp_path: Path, precompute: bool) -> None:
    common: dict[str, Any] = {"beta": 0.3, "precompute_ref_log_probs": precompute, **QUIET, **PLAIN}
    theirs = TheirDPOTrainer(
        model=model(),
        ref_model=model(),
        args=TheirDPOConfig(
            output_dir=str(tmp_path / "trl"), bf16=False, activation_checkpointing=False, save_strategy="no", **common
        ),
        train_dataset=rows(),
        processing_class=chat_tokenizer("llama3"),
    )
    theirs.train()
    ours = DPOTrainer(
        model=model(),
        args=DPOConfig(output_dir=str(tmp_path / "ours"), **common),
        train_dataset=rows(),
        processing_class=chat_tokenizer("llama3"),
    )
    ours.train()
    assert losses(ours)[0] == pytest.approx(0.693147, abs=1e-5)
    assert losses(ours) == pytest.approx(losses(theirs), rel=1e-3)


def test_an_adapter_is_its_own_reference_and_evaluate_says_how_sure_it_is(tmp_path: Path) -> None:
    trainer = DPOTrainer(
        model=model(),
        args=DPOConfig(output_dir=str(tmp_path), beta=0.3, **QUIET | PLAIN),
        train_dataset=rows(),
        eval_dataset=rows(),
        processing_class=chat_tokenizer("llama3"),
        peft_config=LoraConfig(r=4, target_modules="all-linear"),
    )
    before = trainer.evaluate()
    assert before["eval_loss"] == pytest.approx(0.693147, abs=1e-5)
    assert before["eval_rewards/accuracies"] == 0.5  # every reward is zero
    trainer.train()
    after = trainer.evaluate(metric_key_prefix="end")
    assert after["end_loss"] < before["eval_loss"]
    assert after["end_rewards/accuracies_low"] < after["end_rewards/accuracies"] <= after["end_rewards/accuracies_high"]
    assert after["end_pairs"] == len(ROWS)
    trainer.save_model()
    loaded = PeftModel.from_pretrained(model(), tmp_path)
    for name, weight in loaded.named_parameters():
        assert torch.equal(weight, dict(trainer.model.named_parameters())[name]), name


class Counting(TrainerCallback):
    """Counts what it is told, and asks for the end after two steps."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.told.append(f"begin {state.max_steps}")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        self.told.append(f"step {state.global_step}")
        control.should_training_stop = state.global_step == 2
        return control

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any, **kwargs: Any) -> None:
        self.told.append(f"evaluated {sorted(metrics)[0]}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.told.append("end")


def test_callbacks_are_told_and_may_end_the_run(tmp_path: Path) -> None:
    counting = Counting()
    trainer = SimPOTrainer(
        model(),
        simpo(tmp_path, eval_strategy="steps", eval_steps=1),
        rows(),
        rows(),
        chat_tokenizer("llama3"),
        [counting],
    )
    assert trainer.train().global_step == 2
    assert counting.told == [
        *("begin 3", "step 1", "evaluated eval_logps/chosen", "step 2", "evaluated eval_logps/chosen", "end"),
    ]
    assert len(list((tmp_path / "checkpoints").glob("step-*"))) == 1


def test_early_stopping_as_transformers_has_it_keeps_the_best_weights(tmp_path: Path) -> None:
    others = [
        {**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in ROWS
    ]  # so that it only gets worse
    trainer = SimPOTrainer(
        model(),
        simpo(
            tmp_path,
            eval_strategy="steps",
            eval_steps=1,
            load_best_model_at_end=True,
            max_steps=8,
            save_strategy="steps",
            save_steps=1,
        ),
        rows(),
        others,
        chat_tokenizer("llama3"),
        [EarlyStoppingCallback(early_stopping_patience=2)],
    )
    result = trainer.train()
    assert result.global_step == 1
    assert trainer.state.global_step == 3
    assert trainer.evaluate()["eval_loss"] == pytest.approx(trainer.state.best_metric, rel=1e-5)


def test_the_last_weights_are_kept_where_the_best_were_not_asked_for(tmp_path: Path) -> None:
    worse = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in ROWS]
    args = simpo(tmp_path, eval_strategy="epoch", save_total_limit=1)
    trainer = SimPOTrainer(model(), args, rows(), worse, chat_tokenizer("llama3"))
    assert trainer.train().global_step == 3
    logged = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert logged == sorted(logged)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(logged[-1], rel=1e-5)


def test_a_second_start_goes_on_and_another_setting_is_refused_by_name(tmp_path: Path) -> None:
    def start(**changes: Any) -> Any:
        trainer = SimPOTrainer(model(), simpo(tmp_path, **changes), rows(), processing_class=chat_tokenizer("llama3"))
        trainer.train()
        return trainer.model

    first, again = start(), start()
    for one, other in zip(first.parameters(), again.parameters()):
        assert torch.equal(one, other)
    with pytest.raises(RecipeError, match="learning_rate"):
        start(learning_rate=1e-2)


def other_model() -> Any:
    other = model()
    with torch.no_grad():
        other.lm_head.weight.mul_(0.5)
    return other


def other_configuration() -> Any:
    other = model()
    other.config.rope_parameters["rope_theta"] *= 2
    return other


def ranked(rows: int, answers: int, first: int = 0) -> list[dict[str, Any]]:
    """Rows of ranked answers: `answers * (answers - 1) / 2` pairs each, which stay together."""
    return [
        {
            "prompt": f"Where is my {WORDS[i % 8]} {i}?",
            "responses": [f"It is {WORDS[(i + k) % 8]}, number {k}." for k in range(answers)],
            "scores": list(range(answers)),
        }
        for i in range(first, first + rows)
    ]


class Epochs(TrainerCallback):
    """Notes after which step and epoch it is told of an epoch's end and of an evaluation."""

    def __init__(self) -> None:
        self.ends: list[tuple[int, float]] = []
        self.evaluated: list[int] = []

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ends.append((state.global_step, state.epoch))

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.evaluated.append(state.global_step)


@pytest.mark.parametrize(
    ("epochs", "steps", "ends"),
    [(1, 8, [(8, 1.0)]), (2, 16, [(8, 1.0), (16, 2.0)]), (0.5, 4, []), (1.1, 9, [(8, 1.0)])],
)
def test_an_epoch_of_ranked_rows_is_all_of_them(
    epochs: float, steps: int, ends: list[tuple[int, float]], tmp_path: Path
) -> None:
    told = Epochs()
    args = simpo(tmp_path, max_steps=-1, num_train_epochs=epochs, eval_strategy="epoch", save_strategy="epoch")
    trainer = SimPOTrainer(model(), args, ranked(8, 4), rows(), chat_tokenizer("llama3"), [told])
    assert trainer.train().global_step == steps  # of 6 pairs each, since 8 hold no second row
    assert trainer.state.epoch == pytest.approx(steps / 8)
    assert told.ends == ends
    assert told.evaluated == sorted({*(step for step, _ in ends), steps})


def test_epochs_of_unequal_length_end_where_their_last_row_is(tmp_path: Path) -> None:
    told = Epochs()
    mixed = [*ranked(7, 3), *ranked(9, 2, first=7)]
    args = simpo(tmp_path, max_steps=-1, num_train_epochs=4, per_device_train_batch_size=4, eval_strategy="epoch")
    trainer = SimPOTrainer(model(), args, mixed, rows(), chat_tokenizer("llama3"), [told])
    steps = trainer.train().global_step
    ends = [step for step, _ in told.ends]
    assert len({after - before for before, after in itertools.pairwise([0, *ends])}) > 1
    assert told.ends == [(step, float(epoch)) for epoch, step in enumerate(ends, 1)]
    assert told.evaluated == ends
    assert ends[-1] == steps
    pairs = [record["pairs"] for record in read_journal(tmp_path / "journal.jsonl")]
    assert [pairs[step - 1] for step in ends] == [30 * epoch for epoch in range(1, 5)]


def test_a_ranked_row_larger_than_a_step_names_the_trainers_argument(tmp_path: Path) -> None:
    args = simpo(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    trainer = SimPOTrainer(model(), args, ranked(3, 4), processing_class=chat_tokenizer("llama3"))
    with pytest.raises(DataError, match=r"ranks 6 pairs.*`per_device_train_batch_size \* .* is 4; raise it to 6"):
        trainer.train()
    with pytest.raises(RecipeError, match="`num_train_epochs` is 0"):
        SimPOTrainer(
            model(),
            simpo(tmp_path, max_steps=-1, num_train_epochs=0),
            rows(),
            processing_class=chat_tokenizer("llama3"),
        ).train()


LORA: dict[str, Any] = {"r": 4, "lora_alpha": 16, "target_modules": "all-linear"}
OTHER_STARTS: dict[str, tuple[dict[str, Any], str]] = {
    "weights": ({"model": other_model}, "another model;"),
    "configuration": ({"model": other_configuration}, "another model;"),
    "alpha": ({"peft_config": LoraConfig(**LORA | {"lora_alpha": 64})}, r"adapter.lora_alpha \(16, now 64\)"),
    "dropout": (
        {"peft_config": LoraConfig(**LORA | {"lora_dropout": 0.05})},
        r"adapter.lora_dropout \(0.0, now 0.05\)",
    ),
    "ref_model": ({"ref_model": other_model}, "ref_model"),
    "disable_dropout": ({"args": {"disable_dropout": False}}, "disable_dropout"),
    "way of the reference": ({"args": {"precompute_ref_log_probs": True}}, "precompute_ref_log_probs"),
}


@pytest.mark.parametrize("name", OTHER_STARTS)
def test_another_start_in_the_same_folder_is_refused_by_name(name: str, tmp_path: Path) -> None:
    def start(**changes: Any) -> Any:
        return DPOTrainer(
            model=changes.get("model", model)(),
            ref_model=changes["ref_model"]() if "ref_model" in changes else None,
            args=DPOConfig(output_dir=str(tmp_path), beta=0.3, **QUIET | PLAIN | changes.get("args", {})),
            train_dataset=rows(),
            processing_class=chat_tokenizer("llama3"),
            peft_config=changes.get("peft_config", LoraConfig(**LORA)),
        )

    trainer = start()
    loss = trainer.train().training_loss
    assert trainer.train().training_loss == start().train().training_loss == loss
    changes, said = OTHER_STARTS[name]
    with pytest.raises(RecipeError, match=said):
        start(**changes).train()


def test_an_adapter_drawn_anew_by_the_script_goes_on_as_it_was_first_drawn(tmp_path: Path) -> None:
    def start(seed: int) -> Any:
        torch.manual_seed(seed)
        drawn = get_peft_model(model(), LoraConfig(**LORA))
        trainer = SimPOTrainer(drawn, simpo(tmp_path), rows(), processing_class=chat_tokenizer("llama3"))
        trainer.train()
        return trainer.model

    first, again = start(1), start(2)
    for one, other in zip(first.parameters(), again.parameters()):
        assert torch.equal(one, other)


def test_scores_of_another_reference_are_not_taken_again(tmp_path: Path) -> None:
    def start(own: Any, ref_model: Any = None) -> Any:
        return DPOTrainer(
            own,
            ref_model,
            DPOConfig(output_dir=str(tmp_path), beta=0.3, precompute_ref_log_probs=True, **QUIET | PLAIN),
            rows(),
            rows(),
            chat_tokenizer("llama3"),
        )

    assert start(model()).evaluate() == start(model()).evaluate()
    with pytest.raises(DataError, match="reference scores of another model;"):
        start(other_model()).evaluate()
    with pytest.raises(DataError, match="reference scores of another model, ref_model"):
        start(model(), other_model()).evaluate()
    same = model()
    with pytest.raises(ModelError, match="`model` itself"):
        DPOTrainer(
            same, same, DPOConfig(output_dir=str(tmp_path)), rows(), None, chat_tokenizer("llama3"), None, LoraConfig()
        )


REFUSED = {
    "deepspeed": {"deepspeed": "ds.json"},
    "neftune_noise_alpha": {"neftune_noise_alpha": 5.0},
    "adam_beta2": {"adam_beta2": 0.95},
    "optim": {"optim": "adafactor"},
    "lr_scheduler_type": {"lr_scheduler_type": "polynomial"},
    "fp16": {"fp16": True},
    "report_to": {"report_to": "comet_ml"},
    "push_to_hub": {"push_to_hub": True},
    "generate_during_eval": {"generate_during_eval": True},
    "max_prompt_length": {"max_prompt_length": 128},
    "loss_type": {"loss_type": "sigmoid"},
    "alpha": {"alpha": 0.5},
    "eval_delay": {"eval_delay": 5},
    "greater_is_better": {"greater_is_better": True},
    "beta and margin": {"gamma_beta_ratio": 0.5},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_not_be_heeded_is_refused_by_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=name):
        SimPOTrainer(
            model(), simpo(tmp_path, **REFUSED[name]), rows(), processing_class=chat_tokenizer("llama3")
        ).train()
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("argument", "value"),
    [("learning_rate", -1e-4), ("weight_decay", -0.1), ("save_total_limit", -1), ("per_device_train_batch_size", 0)],
)
def test_a_number_out_of_its_range_is_named_as_the_script_names_it(argument: str, value: float, tmp_path: Path) -> None:
    args = simpo(tmp_path, **{argument: value})
    with pytest.raises(EvenhandError, match=rf"{argument}`? .*{value:g}"):
        SimPOTrainer(model(), args, rows(), processing_class=chat_tokenizer("llama3")).train()


def test_a_largest_gradient_norm_of_0_clips_nothing_and_lower_is_better_is_heeded(tmp_path: Path) -> None:
    def start(largest: float) -> list[float]:
        args = simpo(tmp_path / str(largest), max_grad_norm=largest, greater_is_better=False)
        trainer = SimPOTrainer(model(), args, rows(), processing_class=chat_tokenizer("llama3"))
        trainer.train()
        return losses(trainer)

    assert start(0.0) == start(1e9) != start(1e-9)


def test_margins_are_stated_once_and_in_either_unit(tmp_path: Path) -> None:
    folder = str(tmp_path)
    by_ratio = SimPOConfig(output_dir=folder, beta=2.5, gamma_beta_ratio=0.55).objective()
    assert SimPOConfig(output_dir=folder, beta=2.5, simpo_gamma=1.375).objective() == by_ratio
    assert SimPOConfig(output_dir=folder, preset="simpo-llama3-instruct").objective() == by_ratio
    for wrong in ({}, {"beta": 2.0}, {"margin": 0.5}, {"preset": "simpo-guide", "beta": 2.0}, {"preset": "none"}):
        with pytest.raises(RecipeError, match=r"beta|preset"):
            SimPOConfig(output_dir=folder, **wrong)


def test_dpo_refuses_losses_it_lacks_and_smoothing_that_nothing_reads(tmp_path: Path) -> None:
    for wrong in ({"loss_type": "sppo_hard"}, {"loss_type": ["sigmoid", "ipo"]}, {"label_smoothing": 0.1}):
        with pytest.raises(RecipeError, match=r"loss_type|label_smoothing"):
            DPOConfig(output_dir=str(tmp_path), **wrong)
    robust = DPOConfig(output_dir=str(tmp_path), loss_type="robust", label_smoothing=0.1)
    assert dataclasses.asdict(robust.objective())["robust"]


def test_rows_that_cannot_be_used_are_said_and_the_rest_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = {**ROWS[0], "chosen": [{"role": "assistant", "content": "parcel " * 200}]}
    empty = {**ROWS[1], "chosen": []}
    args = (model(), simpo(tmp_path, max_length=64))
    trainer = SimPOTrainer(*args, [*ROWS, long, empty], processing_class=chat_tokenizer("llama3"))
    assert [refusal.row for refusal in trainer.refusals] == [9, 8]
    said = capsys.readouterr().err
    assert "too_long" in said
    assert "1 refused" in said


def test_a_streamed_set_several_sets_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer("llama3")
    with pytest.raises(DataError, match="no length"):
        SimPOTrainer(model(), simpo(tmp_path), rows().to_iterable_dataset(), processing_class=tokenizer)
    with pytest.raises(DataError, match="several data sets"):
        SimPOTrainer(model(), simpo(tmp_path), rows(), {"a": rows()}, tokenizer)
    with pytest.raises(DataError, match="missing"):
        SimPOTrainer(model(), simpo(tmp_path), processing_class=tokenizer)
    with pytest.raises(RecipeError, match="no `eval_dataset`"):
        SimPOTrainer(model(), simpo(tmp_path, eval_strategy="epoch"), rows(), processing_class=tokenizer)
    with pytest.raises(RecipeError, match="compute_metrics"):
        SimPOTrainer(model(), simpo(tmp_path), rows(), processing_class=tokenizer, compute_metrics=len)
    with pytest.raises(ModelError, match="processing_class"):
        SimPOTrainer(model(), simpo(tmp_path), rows())


def test_a_script_parses_its_arguments_with_transformers(tmp_path: Path) -> None:
    words = f"--output_dir {tmp_path} --beta 2.0 --gamma_beta_ratio 0.25 --num_train_epochs 0.5 --max_length 128"
    (config,) = HfArgumentParser(SimPOConfig).parse_args_into_dataclasses(words.split())
    assert config.objective().margin == 0.25
    assert config.form.max_tokens == 128
    (dpo,) = HfArgumentParser(DPOConfig).parse_args_into_dataclasses(
        ["--output_dir", str(tmp_path), "--loss_type", "ipo"]
    )
    assert dpo.objective() == IPO(0.1)


SCRIPT = """
from datasets import load_dataset
from evenhand import DPOConfig, DPOTrainer
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("start")
tokenizer = AutoTokenizer.from_pretrained("start")
train_dataset = load_dataset("json", data_files="pairs.jsonl", split="train")
training_args = DPOConfig(
    output_dir="tuned", num_train_epochs=1, per_device_train_batch_size=2, gradient_accumulation_steps=2,
    learning_rate=1e-3, warmup_steps=1, logging_steps=1, save_strategy="epoch", gradient_checkpointing={recompute},
)
trainer = DPOTrainer(
    model=model, args=training_args, train_dataset=train_dataset, processing_class=tokenizer,
    peft_config=LoraConfig(r=8, lora_alpha=16),
)
trainer.train()
trainer.save_model(training_args.output_dir)
"""


def test_the_script_of_the_documentation_runs_with_its_import_changed(tmp_path: Path) -> None:
    model().save_pretrained(tmp_path / "start")
    chat_tokenizer("chatml").save_pretrained(tmp_path / "start")
    rows().to_json(tmp_path / "pairs.jsonl")
    names = {field.name for field in dataclasses.fields(DPOConfig)}
    text = textwrap.dedent(SCRIPT).replace("{recompute}", "True")
    if "gradient_checkpointing" not in names:
        text = text.replace("gradient_checkpointing", "activation_checkpointing")
    command = [sys.executable, "-c", text]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "rewards/margins" in done.stdout + done.stderr
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "start")
    tuned = PeftModel.from_pretrained(base, tmp_path / "tuned")
    assert any(weight.abs().sum() > 0 for name, weight in tuned.named_parameters() if "lora_B" in name)
