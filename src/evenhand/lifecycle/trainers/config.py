"""SimPOConfig and DPOConfig: TRL's names; each is heeded, without effect on numbers, or refused by name.

The classes extend transformers' TrainingArguments, since that is what a script passes to HfArgumentParser and reads back.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

from evenhand.errors import RecipeError
from evenhand.model.modes import Form
from evenhand.objectives.dpo import DPO
from evenhand.objectives.hinge import Hinge
from evenhand.objectives.ipo import IPO
from evenhand.objectives.objective import Objective
from evenhand.objectives.presets import PRESETS
from evenhand.objectives.simpo import SimPO

# Arguments that change what is computed, where it is kept or when it is told.
_HEEDED = frozenset(
    {
        *("output_dir", "per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "max_steps"),
        *(
            "learning_rate",
            "lr_scheduler_type",
            "warmup_steps",
            "warmup_ratio",
            "weight_decay",
            "max_grad_norm",
            "seed",
        ),
        *("bf16", "gradient_checkpointing", "activation_checkpointing", "use_cpu", "full_determinism"),
        *("logging_strategy", "logging_steps", "logging_first_step", "report_to", "run_name", "disable_tqdm"),
        *("eval_strategy", "eval_steps", "save_strategy", "save_steps", "save_total_limit"),
        *("load_best_model_at_end", "metric_for_best_model", "resume_from_checkpoint"),
    }
)
# Arguments about how other engines cut, load and pad; no number of evenhand's depends on them.
_WITHOUT_EFFECT = frozenset(
    {
        *("per_device_eval_batch_size", "eval_accumulation_steps", "remove_unused_columns", "auto_find_batch_size"),
        *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_in_order"),
        *("dataloader_prefetch_factor", "dataloader_multiprocessing_context", "gradient_checkpointing_kwargs"),
        *("activation_checkpointing_kwargs", "average_tokens_across_devices", "torch_empty_cache_steps", "use_cache"),
        *("do_train", "do_eval", "do_predict", "log_level", "log_level_replica", "log_on_each_node", "logging_dir"),
        *("skip_memory_metrics", "save_only_model", "ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_timeout"),
        *("logging_nan_inf_filter", "local_rank", "use_liger_kernel", "eval_do_concat_batches", "overwrite_output_dir"),
        *(
            "include_num_input_tokens_seen",
            "accelerator_config",
            "prediction_loss_only",
            "optim",
            "tf32",
            "group_by_length",
        ),
        *("dataset_num_proc", "padding_free", "pad_to_multiple_of", "precompute_ref_batch_size"),
    }
)
_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused")


@dataclass
class PreferenceConfig(TrainingArguments):
    """What both trainers read beside TrainingArguments; the names are TRL's, the defaults are stated where they differ.

    A row longer than `max_length` is refused and counted; `truncation_mode="keep_start"` cuts it as TRL does, with TRL's
    tokens. `bf16` left out keeps the precision that the model was loaded in. Raises RecipeError for an argument that
    evenhand would not heed.
    """

    max_length: int | None = field(
        default=2048, metadata={"help": "Longest side in tokens, prompt included (TRL: 1024)."}
    )
    truncation_mode: str | None = field(
        default=None, metadata={"help": "None refuses longer rows by name; keep_start cuts them as TRL does."}
    )
    disable_dropout: bool = field(default=True, metadata={"help": "Switch off the dropout of model and adapter."})
    model_init_kwargs: dict[str, Any] | None = field(
        default=None, metadata={"help": "Only dtype, where the model is given by name."}
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Refused: nothing that a model ships is executed."}
    )
    generate_during_eval: bool = field(default=False, metadata={"help": "Refused: see `evenhand evaluate`."})
    dataset_num_proc: int | None = field(default=None, metadata={"help": "Without effect."})
    padding_free: bool = field(default=False, metadata={"help": "Without effect: nothing is ever padded."})
    pad_to_multiple_of: int | None = field(default=None, metadata={"help": "Without effect: nothing is ever padded."})
    max_prompt_length: int | None = field(default=None, metadata={"help": "Refused: prompts are never cut."})
    max_completion_length: int | None = field(default=None, metadata={"help": "Refused: answers are never cut."})
    bf16: bool | None = field(
        default=None, metadata={"help": "True casts the weights to bfloat16, with fp32 masters; None leaves them."}
    )
    logging_steps: float = field(default=10, metadata={"help": "Steps between two logs, or a share of all steps."})

    def __post_init__(self) -> None:
        _refuse(self)
        bf16, self.bf16 = self.bf16, False  # not autocast, which is what transformers would make of it
        super().__post_init__()
        self.bf16 = bf16

    @property
    def form(self) -> Form:
        """How rows become tokens."""
        longest = self.max_length if self.max_length is not None else 1 << 30
        return Form(max_tokens=longest, compat="trl" if self.truncation_mode == "keep_start" else None)

    @property
    def recomputes(self) -> bool:
        """Whether activations are computed again in the backward, under whichever name transformers has for it."""
        return bool(getattr(self, "activation_checkpointing", None) or getattr(self, "gradient_checkpointing", None))


@dataclass
class SimPOConfig(PreferenceConfig):
    """SimPO's. `beta` and one way to state the margin have no default: TRL's and the authors' differ.

    `simpo_gamma` is TRL's and the paper's, in reward units; `gamma_beta_ratio` is the authors', `margin` evenhand's:
    both the gap in nats per token, simpo_gamma / beta. `cpo_alpha` is 0 here, and 1 in TRL's CPOConfig.
    """

    learning_rate: float = field(default=1e-6, metadata={"help": "Peak learning rate of AdamW."})
    beta: float | None = field(default=None, metadata={"help": "SimPO's beta; the authors published 2 to 10."})
    simpo_gamma: float | None = field(default=None, metadata={"help": "Margin in reward units, as TRL states it."})
    gamma_beta_ratio: float | None = field(
        default=None, metadata={"help": "Margin in nats per token, the authors' name."}
    )
    margin: float | None = field(default=None, metadata={"help": "Margin in nats per token."})
    preset: str | None = field(default=None, metadata={"help": "A published pair of beta and margin, by name."})
    loss_type: str = field(default="simpo", metadata={"help": "simpo, and nothing else."})
    cpo_alpha: float = field(
        default=0.0, metadata={"help": "Weight of the mean negative log-likelihood of chosen answers."}
    )
    label_smoothing: float = field(default=0.0, metadata={"help": "Share of labels taken to be wrong."})
    alpha: float = field(default=0.0, metadata={"help": "Refused: AlphaPO is not here."})

    def __post_init__(self) -> None:
        if self.loss_type != "simpo":
            raise RecipeError(
                f"`loss_type` is {self.loss_type!r}, and SimPOConfig trains SimPO alone (`simpo`); TRL's other losses are "
                "`objective.name` of a recipe: cpo, slic, ipo, orpo."
            )
        super().__post_init__()
        self.objective()

    def objective(self) -> Objective:
        """SimPO as these arguments state it; raises RecipeError where beta or margin is missing or stated twice."""
        stated = {
            name: value
            for name in ("simpo_gamma", "gamma_beta_ratio", "margin", "preset")
            if (value := getattr(self, name)) is not None
        }
        if len(stated) != 1:
            said = f"are stated by {', '.join(stated)}" if stated else "have no default"
            raise RecipeError(
                f"beta and margin decide the result and {said}: give `beta` with one of `simpo_gamma` (reward units), "
                "`gamma_beta_ratio` and `margin` (nats per token), or a `preset`."
            )
        ((name, value),) = stated.items()
        if name == "preset":
            return self._published(str(value))
        if self.beta is None:
            raise RecipeError(
                "`beta` is missing, and no default would be yours: TRL's CPOConfig has 0.1, the authors' scripts 2.0 to 10."
            )
        margin = float(value) / self.beta if name == "simpo_gamma" and self.beta else float(value)
        return SimPO(self.beta, margin, self.label_smoothing, sft_weight=self.cpo_alpha)

    def _published(self, name: str) -> SimPO:
        if self.beta is not None:
            raise RecipeError("`preset` sets beta; leave `beta` out.")
        if name not in PRESETS:
            raise RecipeError(f"`preset` is {name!r}; known: {', '.join(PRESETS)}.")
        return SimPO(PRESETS[name].beta, PRESETS[name].margin, self.label_smoothing, sft_weight=self.cpo_alpha)


@dataclass
class DPOConfig(PreferenceConfig):
    """DPO's and those of its relatives that evenhand has, by TRL's `loss_type`."""

    learning_rate: float = field(default=1e-6, metadata={"help": "Peak learning rate of AdamW."})
    beta: float = field(default=0.1, metadata={"help": "DPO's beta; IPO's tau."})
    loss_type: str | list[str] = field(
        default="sigmoid", metadata={"help": "sigmoid, sigmoid_norm, robust, hinge or ipo."}
    )
    label_smoothing: float = field(default=0.0, metadata={"help": "Share of labels that are wrong, for robust."})
    precompute_ref_log_probs: bool = field(
        default=False, metadata={"help": "Score the reference once, before training, and keep the scores."}
    )
    precompute_ref_batch_size: int | None = field(default=None, metadata={"help": "Without effect."})
    loss_weights: list[float] | None = field(default=None, metadata={"help": "Refused: one loss at a time."})
    f_divergence_type: str = field(default="reverse_kl", metadata={"help": "reverse_kl, and nothing else."})
    ld_alpha: float | None = field(default=None, metadata={"help": "Refused."})
    use_weighting: bool = field(default=False, metadata={"help": "Refused."})
    sync_ref_model: bool = field(default=False, metadata={"help": "Refused: the reference never moves."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.objective()

    def objective(self) -> Objective:
        """The loss as these arguments state it; raises RecipeError for one that is not here."""
        match [self.loss_type] if isinstance(self.loss_type, str) else self.loss_type:
            case ["sigmoid"]:
                self._refuse_smoothing("sigmoid")
                return DPO(self.beta)
            case ["sigmoid_norm"]:
                self._refuse_smoothing("sigmoid_norm")
                return DPO(self.beta, length_normalised=True)
            case ["robust"]:
                return DPO(self.beta, self.label_smoothing, robust=True)
            case ["hinge"]:
                return Hinge(self.beta)
            case ["ipo"]:
                return IPO(self.beta)
        raise RecipeError(
            f"`loss_type` is {self.loss_type!r}; DPOTrainer has sigmoid, sigmoid_norm, robust, hinge and ipo, one at a time."
        )

    def _refuse_smoothing(self, loss: str) -> None:
        """TRL's `sigmoid` reads no label smoothing, so that an argument would do nothing without a word."""
        if self.label_smoothing:
            raise RecipeError(
                f"`label_smoothing` is {self.label_smoothing:g}, and `loss_type={loss!r}` does not read it in TRL; take "
                "`robust`, or `objective: {name: dpo, label_smoothing: ...}` of a recipe for cDPO."
            )


def _refuse(args: PreferenceConfig) -> None:
    """Raise RecipeError for the first argument that is set and that evenhand would not heed."""
    own = {f.name for cls in (PreferenceConfig, SimPOConfig, DPOConfig) for f in dataclasses.fields(cls)} - {
        f.name for f in dataclasses.fields(TrainingArguments)
    }
    refused = {
        *("trust_remote_code", "generate_during_eval", "max_prompt_length", "max_completion_length", "alpha"),
        *("loss_weights", "f_divergence_type", "ld_alpha", "use_weighting", "sync_ref_model"),
    }
    heeded = (_HEEDED | _WITHOUT_EFFECT | own) - refused
    for argument in dataclasses.fields(args):
        default = argument.default if argument.default_factory is dataclasses.MISSING else argument.default_factory()
        value = getattr(args, argument.name)
        # argparse gives None where nothing was said, whatever the default that means nothing is.
        if argument.name not in heeded and (value or None) != (default or None):
            raise RecipeError(
                f"`{argument.name}` is {value!r}, which evenhand's trainers would not heed; leave it out (its default is "
                f"{default!r})."
            )
    if str(getattr(args.optim, "value", args.optim)) not in _OPTIMIZERS:
        raise RecipeError(
            f"`optim` is {args.optim}; evenhand trains with AdamW on fp32 masters: {' or '.join(_OPTIMIZERS)}."
        )
    if args.truncation_mode not in (None, "keep_start"):
        raise RecipeError(
            f"`truncation_mode` is {args.truncation_mode!r}; None refuses long rows, keep_start cuts them."
        )
