"""What a script's TrainerCallbacks are told of a run, by transformers' own machinery."""

from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_callback import (
    CallbackHandler,
    DefaultFlowCallback,
    PrinterCallback,
    ProgressCallback,
    TrainerControl,
    TrainerState,
)

from evenhand.lifecycle.trainers.config import PreferenceConfig
from evenhand.lifecycle.trainers.settings import Passes
from evenhand.training.sections import TrainingSection


class Events:
    """Tells callbacks of each step, log and evaluation of the first rank, and hears when one asks to stop.

    Checkpoints are the loop's own, so `on_save` and what a callback says of saving have no effect.
    """

    def __init__(
        self,
        args: PreferenceConfig,
        callbacks: list[TrainerCallback | type[TrainerCallback]] | None,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        shown = PrinterCallback if args.disable_tqdm else ProgressCallback
        self.args = args
        self.state = TrainerState(is_local_process_zero=True, is_world_process_zero=True)
        self.control = TrainerControl()
        self.handler = CallbackHandler([DefaultFlowCallback, *(callbacks or []), shown], model, tokenizer, None, None)
        self._told: list[dict[str, float]] = []
        self._passes = Passes(0, ())
        self.control = self.handler.on_init_end(args, self.state, self.control)

    def begin(self, training: TrainingSection, passes: Passes) -> None:
        """The run begins, or goes on."""
        state, steps = self.state, passes.steps
        state.max_steps, state.num_train_epochs = steps, len(passes.ends)
        state.logging_steps = self._interval(self.args.logging_steps, steps)
        state.eval_steps = training.validate_every or steps
        state.save_steps = training.checkpoint_every or steps
        self._passes = passes
        self.control = self.handler.on_train_begin(self.args, state, self.control)
        self.control = self.handler.on_epoch_begin(self.args, state, self.control)
        self.control = self.handler.on_step_begin(self.args, state, self.control)

    def log(self, values: dict[str, float], _step: int) -> None:
        """A step's figures, which are told as their mean when it is time to log."""
        self._told.append({name: value for name, value in values.items() if not name.startswith("eval_")})

    def report(self, record: dict[str, Any], steps: int) -> None:
        """A step is over."""
        state, step = self.state, int(record["step"])
        state.global_step, state.epoch = step, self._passes.done(step)
        self.control = self.handler.on_step_end(self.args, state, self.control)
        epoch_ends = state.epoch.is_integer()
        if epoch_ends:
            self.control = self.handler.on_epoch_end(self.args, state, self.control)
        if self.control.should_log and self._told:
            self._tell(_mean(self._told))
            self._told = []
        if validation := record.get("validation"):
            self._evaluated(validation["metrics"], step)
        if step < steps and not self.control.should_training_stop:
            if epoch_ends:
                self.control = self.handler.on_epoch_begin(self.args, state, self.control)
            self.control = self.handler.on_step_begin(self.args, state, self.control)

    def stop(self) -> bool:
        """Whether a callback has asked for the end."""
        return bool(self.control.should_training_stop)

    def evaluated(self, metrics: dict[str, float]) -> None:
        """An evaluation that the script asked for."""
        self._evaluated(metrics, self.state.global_step)

    def end(self) -> None:
        """The run is over."""
        self.control = self.handler.on_train_end(self.args, self.state, self.control)

    def _tell(self, values: dict[str, float]) -> None:
        logs = values | ({} if self.state.epoch is None else {"epoch": self.state.epoch})
        self.state.log_history.append(logs | {"step": self.state.global_step})
        self.control = self.handler.on_log(self.args, self.state, self.control, logs)

    def _evaluated(self, metrics: dict[str, float], step: int) -> None:
        self._tell(metrics)
        self.control = self.handler.on_evaluate(self.args, self.state, self.control, metrics)
        loss = metrics.get("eval_loss")
        if loss is not None and (self.state.best_metric is None or loss < self.state.best_metric):
            self.state.best_metric, self.state.best_global_step = loss, step

    @staticmethod
    def _interval(every: float, steps: int) -> int:
        return max(1, int(every) if every >= 1 else int(-(-every * steps // 1)))


def _mean(told: list[dict[str, float]]) -> dict[str, float]:
    """Each figure's mean over the steps that have it; the learning rate is the last one's."""
    names = dict.fromkeys(name for one in told for name in one)
    found = {name: [one[name] for one in told if name in one] for name in names}
    return {
        name: values[-1] if name == "learning_rate" else sum(values) / len(values) for name, values in found.items()
    }
