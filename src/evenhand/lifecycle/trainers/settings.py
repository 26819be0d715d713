"""The loop's settings from a trainer's arguments: steps from epochs, a share of steps from a warm-up, and trackers by name."""

import math
import sys
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from evenhand.errors import RecipeError
from evenhand.lifecycle.trainers.config import PreferenceConfig
from evenhand.model.encode import EncodedPair
from evenhand.training.plan import ends_until, epoch_ends, make_plan
from evenhand.training.sections import TrainingSection

_SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant", "constant_with_warmup": "constant"}
_TRACKERS = ("tensorboard", "mlflow", "wandb", "trackio")
_NO_CLIPPING = sys.float_info.max
# What an argument is called where it is not as in a recipe.
_ARGUMENTS = {
    "batch_pairs": "per_device_train_batch_size",
    "max_gradient_norm": "max_grad_norm",
    "warmup": "warmup_steps",
    "validate_every": "eval_steps",
    "checkpoint_every": "save_steps",
    "keep_checkpoints": "save_total_limit",
}
_BATCH = "per_device_train_batch_size * gradient_accumulation_steps * processes"


@dataclass(frozen=True, slots=True)
class Passes:
    """How many steps a run has, and how many are done at the end of each pass over the data; the last may be cut short.

    Passes need not be of one length, since the pairs of a ranked row stay together.
    """

    steps: int
    ends: tuple[int, ...]

    def done(self, step: int) -> float:
        """Passes done after `step`, the share of one that is not over included."""
        whole = bisect_right(self.ends, step)
        if whole == len(self.ends):
            return float(whole)
        begins = self.ends[whole - 1] if whole else 0
        return whole + (step - begins) / (self.ends[whole] - begins)


def passes_of(args: PreferenceConfig, pairs: Sequence[EncodedPair], ranks: int) -> Passes:
    """The length of the run that `args` ask for over `pairs`; raises DataError where a ranked row fits in no step,
    RecipeError for no pass at all."""
    if args.max_steps <= 0 and args.num_train_epochs <= 0:
        raise RecipeError(f"`num_train_epochs` is {args.num_train_epochs:g}, and nothing would be trained.")
    plan = make_plan(pairs, _batch_pairs(args, ranks), args.seed, (1, None), _BATCH)
    if args.max_steps > 0:
        return Passes(args.max_steps, ends_until(plan, args.max_steps))
    ends = epoch_ends(plan, math.ceil(args.num_train_epochs))
    before, last = (0, *ends)[-2:]
    share = args.num_train_epochs % 1 or 1.0
    # Rounded first, since (1.1 - 1) * 10 is a bit more than 1.
    return Passes(before + max(1, math.ceil(round(share * (last - before), 6))), ends)


def settings_of(args: PreferenceConfig, passes: Passes, ranks: int) -> TrainingSection:
    """The loop's settings for a run of that length over `ranks` processes.

    Raises RecipeError for a number out of its range, and for a schedule, a tracker or a way of choosing the best model that
    evenhand lacks.
    """
    try:
        return _section(args, passes, ranks)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        said = first["msg"][:1].lower() + first["msg"][1:]
        raise RecipeError(f"`{_ARGUMENTS.get(key, key)}` is {first['input']!r}: {said}.") from error


def _section(args: PreferenceConfig, passes: Passes, ranks: int) -> TrainingSection:
    steps, every_epoch = passes.steps, passes.ends[0]
    # Counted in epochs the loop validates at the end of each; steps can only be equally far apart.
    whole = args.max_steps <= 0 and steps == passes.ends[-1]
    kind = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    if kind not in _SCHEDULES:
        raise RecipeError(f"`lr_scheduler_type` is {kind}; known: {', '.join(_SCHEDULES)}.")
    if args.load_best_model_at_end and args.metric_for_best_model not in (None, "loss", "eval_loss"):
        raise RecipeError(
            f"`metric_for_best_model` is {args.metric_for_best_model}; the best model is the one of the lowest `eval_loss`."
        )
    return TrainingSection(
        batch_pairs=_batch_pairs(args, ranks),
        epochs=len(passes.ends) if whole else None,
        steps=None if whole else steps,
        learning_rate=args.learning_rate,
        schedule=_SCHEDULES[kind],
        warmup=0.0 if kind == "constant" else _warm_share(args, steps),
        seed=args.seed,
        weight_decay=args.weight_decay,
        max_gradient_norm=args.max_grad_norm if args.max_grad_norm > 0 else _NO_CLIPPING,
        validate_every=_every(
            args.eval_strategy, args.eval_steps or args.logging_steps, None if whole else every_epoch, steps
        ),
        checkpoint_every=_every(args.save_strategy, args.save_steps, every_epoch, steps),
        keep_checkpoints=args.save_total_limit or steps,
        final_weights="best" if args.load_best_model_at_end else "last",
        checkpoint_activations=args.recomputes,
        deterministic=True if args.full_determinism else None,
        report_to=_trackers(args),
    )


def _batch_pairs(args: PreferenceConfig, ranks: int) -> int:
    return args.per_device_train_batch_size * args.gradient_accumulation_steps * ranks


def _warm_share(args: PreferenceConfig, steps: int) -> float:
    """The share of steps whose number, rounded up, is the warm-up that was asked for."""
    asked = float(args.warmup_steps or 0)
    share = asked if 0 < asked < 1 else float(getattr(args, "warmup_ratio", None) or 0.0)
    if asked >= 1:
        return min(1.0, (asked - 0.5) / steps)
    return share


def _every(strategy: Any, interval: float, every_epoch: int | None, steps: int) -> int | None:
    """Steps between two occasions; None for the loop's own, or never."""
    match str(getattr(strategy, "value", strategy)):
        case "steps":
            return max(1, math.ceil(interval * steps) if interval < 1 else int(interval))
        case "epoch":
            return every_epoch
        case "no":
            return None
        case other:
            raise RecipeError(f"a strategy is {other!r}; known: no, steps, epoch.")


def _trackers(args: PreferenceConfig) -> tuple[str, ...]:
    named = [args.report_to] if isinstance(args.report_to, str) else list(args.report_to or [])
    wanted = tuple(name for name in named if name != "none")
    for name in wanted:
        if name not in _TRACKERS:
            raise RecipeError(f"`report_to` names {name}; known: {', '.join(_TRACKERS)}, and none.")
    return wanted
