"""The sections of a recipe: each key with its type, its bounds and what it means."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from evenhand.model.load import DtypeName
from evenhand.training.reward_section import RewardPart
from evenhand.training.section import Section

Tracker = Literal["tensorboard", "mlflow", "wandb", "trackio"]
# What both numpy and torch take as a seed.
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class AdapterSection(Section):
    """LoRA; `adapter: null` is full fine-tuning."""

    rank: PositiveInt = Field(16, description="rank of the low-rank product; vLLM serves 16 or less by default")
    alpha: PositiveFloat = Field(32.0, description="the product is scaled by alpha / rank")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="dropout before the low-rank product")
    targets: tuple[str, ...] | None = Field(
        None, description="names of linear layers; left out: all but the output layer"
    )


class ModelSection(Section):
    """The chat model to start from."""

    source: str = Field(description="a folder saved by transformers, a hub id, or builtin:smollm2-135m")
    adapter: AdapterSection | None = Field(AdapterSection(), description="LoRA settings, or null for full fine-tuning")
    dtype: DtypeName = Field(
        "auto", description="auto is bfloat16 on a GPU that has it and on a CPU with AMX, else float32"
    )
    load_in_4bit: bool = Field(
        False, description="keep the frozen base in four bits (NF4, needs bitsandbytes); only with an adapter"
    )

    @model_validator(mode="after")
    def _frozen_base(self) -> "ModelSection":
        if self.load_in_4bit and self.adapter is None:
            raise ValueError(
                "`load_in_4bit` is true and `adapter` is null: weights in four bits cannot be trained; give an adapter"
            )
        return self


class DataSection(Section):
    """Preference pairs: one `source` that is split, or `train` with an optional `validation` file."""

    source: str | None = Field(None, description="file, folder or hub id of pairs or judgments, split by prompt family")
    train: str | None = Field(None, description="file of training pairs, used whole")
    validation: float | str | None = Field(None, description="with `source` a share such as 0.1, with `train` a file")
    max_tokens: PositiveInt = Field(
        2048, description="longest side, prompt included; longer rows are refused and counted"
    )
    max_prompt_tokens: PositiveInt | None = Field(None, description="only for `compat: authors`")
    drop_turns: bool = Field(False, description="make room by dropping whole oldest turns of the prompt")
    kind: str | None = Field(None, description="force the kind of row instead of recognising it")
    template: Literal["chat", "plain"] = Field("chat", description="plain: prompt, newline, answer, end of text")
    template_arguments: dict[str, Any] = Field(
        {}, description="arguments of the chat template, such as enable_thinking"
    )
    compat: Literal["authors", "trl"] | None = Field(None, description="reproduce another trainer's tokens")
    split_seed: Seed = Field(0, description="seed of the split by prompt family")

    @model_validator(mode="after")
    def _one_way(self) -> "DataSection":
        if (self.source is None) == (self.train is None):
            raise ValueError("give either `source` (it is split) or `train` (used whole), and not both")
        if self.source is not None and isinstance(self.validation, str):
            raise ValueError("with `source`, `validation` is a share such as 0.1; with `train` it is a file")
        if self.train is not None and isinstance(self.validation, float):
            raise ValueError("with `train`, `validation` is a file; with `source` it is a share such as 0.1")
        if isinstance(self.validation, float) and not 0 < self.validation < 1:
            raise ValueError(f"`validation` is {self.validation}; a share lies between 0 and 1")
        if self.compat == "authors" and self.max_prompt_tokens is None:
            raise ValueError(
                "`compat: authors` cuts the prompt, so `max_prompt_tokens` is needed (the authors used 1800)"
            )
        if self.compat is not None and (self.template == "plain" or self.template_arguments):
            raise ValueError("`compat` decides the template by itself; leave `template` and `template_arguments` out")
        if self.compat != "authors" and self.max_prompt_tokens is not None:
            raise ValueError("`max_prompt_tokens` is read only with `compat: authors`; leave it out")
        return self


class TrainingSection(Section):
    """The loop. `steps` overrides `epochs`."""

    batch_pairs: PositiveInt = Field(description="pairs per optimizer step, over all ranks")
    epochs: PositiveInt | None = Field(None, description="passes over the training pairs")
    steps: PositiveInt | None = Field(None, description="optimizer steps; overrides epochs")
    learning_rate: PositiveFloat = Field(description="peak learning rate of AdamW")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="after the warm-up")
    warmup: Annotated[float, Field(ge=0, le=1)] = Field(0.1, description="share of the steps")
    seed: Seed = Field(description="of data order, adapter and dropout")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="AdamW's, on matrices only")
    max_gradient_norm: PositiveFloat = Field(1.0, description="gradients are scaled down to this norm")
    validate_every: PositiveInt | None = Field(
        None, description="steps between validations; left out: at the end of each epoch"
    )
    checkpoint_every: PositiveInt | None = Field(None, description="steps between checkpoints; left out: at the end")
    keep_checkpoints: PositiveInt = Field(2, description="newest checkpoints kept, beside the best")
    final_weights: Literal["best", "last"] = Field(
        "best", description="what the run ends with: the weights of the lowest validation loss, or of the last step"
    )
    patience: PositiveInt | None = Field(None, description="stop after so many validations without a lower loss")
    token_budget: PositiveInt | None = Field(None, description="tokens per micro-batch; left out: found by measuring")
    checkpoint_activations: bool = Field(
        False, description="trade time for memory: recompute activations, all but attention's outputs"
    )
    deterministic: bool | None = Field(
        None, description="the same bits from run to run; left out: true on a CPU, false on CUDA, where it costs time"
    )
    parallel: Literal["auto", "ddp", "fsdp"] = Field(
        "auto",
        description="on many ranks: ddp copies, fsdp shards the training state; auto: as accelerate was configured",
    )
    on_nonfinite: Literal["stop", "skip"] = Field("stop", description="what a loss or gradient that is not finite does")
    max_skipped: PositiveInt = Field(10, description="with `on_nonfinite: skip`: stop when more steps were skipped")
    report_to: tuple[Tracker, ...] = Field((), description="trackers: tensorboard, mlflow, wandb, trackio")

    @model_validator(mode="after")
    def _length(self) -> "TrainingSection":
        if self.epochs is None and self.steps is None:
            raise ValueError("give `epochs` or `steps`")
        return self


class GuardSection(Section):
    """The collapse guard: how far a model may move from the untrained one before a validation stops the run.

    The limits are wide: what passes them is broken, not merely changed. null switches one off.
    """

    prompts: Annotated[int, Field(ge=0)] = Field(
        8,
        description="of the evaluation's prompts, so many are answered at each validation; 0: replies are not watched",
    )
    repetition_rise: Annotated[float, Field(gt=0, le=1)] | None = Field(0.3, description="rise of repetition")
    ended_fall: Annotated[float, Field(gt=0, le=1)] | None = Field(0.5, description="fall of the share that ends")
    length_factor: Annotated[float, Field(gt=1)] | None = Field(10.0, description="change of the median reply's tokens")
    chosen_fall: PositiveFloat | None = Field(2.0, description="fall of chosen answers, nats per token")


class EvaluationSection(Section):
    """What is asked of the model before and after training."""

    prompts: Annotated[int, Field(ge=0)] = Field(
        32, description="held-out prompts answered before and after; 0 for none"
    )
    max_new_tokens: PositiveInt = Field(256, description="a reply that has not ended by then counts as not ended")
    rewards: tuple[RewardPart, ...] = Field(
        (), description="what those replies are worth, for the report; a method that learns from rewards brings its own"
    )
