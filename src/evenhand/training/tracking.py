"""Trackers through accelerate, with the keys that TRL logs, so that existing dashboards go on working."""

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from evenhand.errors import RecipeError
from evenhand.training.step import StepResult

_INSTALL = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb", "trackio": "trackio"}


def open_accelerator(report_to: tuple[str, ...], folder: Path, name: str, config: dict[str, Any]) -> Accelerator:
    """accelerate's state with its trackers started; raises RecipeError for a tracker that is not installed."""
    installed = {str(getattr(kind, "value", kind)) for kind in LOGGER_TYPE_TO_CLASS}
    for tracker in report_to:
        if tracker not in installed:
            raise RecipeError(f"`training.report_to` names {tracker}: accelerate has no such tracker.")
    try:
        accelerator = Accelerator(log_with=list(report_to) or None, project_dir=folder)
    except (ValueError, ImportError) as error:
        raise RecipeError(f"`training.report_to`: {error}") from error
    started = {str(getattr(kind, "value", kind)) for kind in accelerator.log_with}
    for tracker in report_to:
        if tracker not in started:
            extra = _INSTALL[tracker]
            raise RecipeError(
                f"`training.report_to` names {tracker}, which is not installed: pip install 'evenhand[{extra}]'."
            )
    try:
        accelerator.init_trackers(name, config=_flat(config))
    except Exception as error:  # trackers raise whatever they like, and their sentence is the best we have
        said = " ".join(str(error).split())
        raise RecipeError(f"`training.report_to`: {', '.join(report_to)} did not start ({said}).") from error
    return accelerator


def tracked_step(result: StepResult, beta: float, learning_rate: float) -> dict[str, float]:
    """A step under TRL's names; `logps` are means per token, as TRL logs them for SimPO."""
    return {
        "loss": result.loss,
        "learning_rate": learning_rate,
        "grad_norm": result.gradient_norm,
        "rewards/chosen": beta * result.chosen_mean,
        "rewards/rejected": beta * result.rejected_mean,
        "rewards/accuracies": result.accuracy,
        "rewards/margins": beta * result.gap,
        "logps/chosen": result.chosen_mean,
        "logps/rejected": result.rejected_mean,
    }


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `section.key`, in types that every tracker takes."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, (int, float, str, bool)) else str(value)
    return flat
