"""Trackers through accelerate, with the keys that TRL logs, so that existing dashboards go on working."""

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from evenhand.errors import RecipeError
from evenhand.objectives.objective import Traits
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


def tracked_step(result: StepResult, traits: Traits, learning_rate: float) -> dict[str, float]:
    """A step under TRL's names, less what it does not have; `logps` are per token where the objective's rewards are, as
    TRL logs them for SimPO, and summed elsewhere, as it logs them for DPO."""
    chosen, rejected = result.chosen_reward, result.rejected_reward
    means = traits.length_normalised
    told = {
        "loss": result.loss,
        "learning_rate": learning_rate,
        "grad_norm": result.gradient_norm,
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/accuracies": result.reward_accuracy,
        "rewards/margins": None if chosen is None or rejected is None else chosen - rejected,
        "logps/chosen": result.chosen_mean if means else result.chosen_sum,
        "logps/rejected": result.rejected_mean if means else result.rejected_sum,
    }
    return {name: value for name, value in told.items() if value is not None}


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `section.key`, in types that every tracker takes."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, (int, float, str, bool)) else str(value)
    return flat
