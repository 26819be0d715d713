"""The loop's settings from a trainer's arguments: steps from epochs, a share of steps from a warm-up, and trackers by name."""

import math
import sys
from typing import Any

from evenhand.errors import RecipeError
from evenhand.lifecycle.trainers.config import PreferenceConfig
from evenhand.training.sections import TrainingSection

_SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant", "constant_with_warmup": "constant"}
_TRACKERS = ("tensorboard", "mlflow", "wandb", "trackio")
_NO_CLIPPING = sys.float_info.max


def settings_of(args: PreferenceConfig, pairs: int, ranks: int) -> TrainingSection:
    """The loop's settings for `pairs` training pairs over `ranks` processes.

    Raises RecipeError for a schedule, a tracker or a way of choosing the best model that evenhand lacks.
    """
    batch_pairs = args.per_device_train_batch_size * args.gradient_accumulation_steps * ranks
    every_epoch = math.ceil(pairs / batch_pairs)
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * every_epoch)
    kind = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    if kind not in _SCHEDULES:
        raise RecipeError(f"`lr_scheduler_type` is {kind}; known: {', '.join(_SCHEDULES)}.")
    if args.load_best_model_at_end and args.metric_for_best_model not in (None, "loss", "eval_loss"):
        raise RecipeError(
            f"`metric_for_best_model` is {args.metric_for_best_model}; the best model is the one of the lowest `eval_loss`."
        )
    return TrainingSection(
        batch_pairs=batch_pairs,
        steps=steps,
        learning_rate=args.learning_rate,
        schedule=_SCHEDULES[kind],
        warmup=0.0 if kind == "constant" else _warm_share(args, steps),
        seed=args.seed,
        weight_decay=args.weight_decay,
        max_gradient_norm=args.max_grad_norm if args.max_grad_norm > 0 else _NO_CLIPPING,
        validate_every=_every(args.eval_strategy, args.eval_steps or args.logging_steps, every_epoch, steps),
        checkpoint_every=_every(args.save_strategy, args.save_steps, every_epoch, steps),
        keep_checkpoints=args.save_total_limit or steps,
        final_weights="best" if args.load_best_model_at_end else "last",
        checkpoint_activations=args.recomputes,
        deterministic=True if args.full_determinism else None,
        report_to=_trackers(args),
    )


def _warm_share(args: PreferenceConfig, steps: int) -> float:
    """The share of steps whose number, rounded up, is the warm-up that was asked for."""
    asked = float(args.warmup_steps or 0)
    share = asked if 0 < asked < 1 else float(getattr(args, "warmup_ratio", None) or 0.0)
    if asked >= 1:
        return min(1.0, (asked - 0.5) / steps)
    return share


def _every(strategy: Any, interval: float, every_epoch: int, steps: int) -> int | None:
    """Steps between two occasions; None for the end alone, or never."""
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
