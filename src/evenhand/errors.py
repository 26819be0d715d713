"""Every error evenhand raises, as one tree, with the exit code a command ends with."""


class EvenhandError(Exception):
    """Base of all errors raised on purpose; the message is one sentence: what, where, what to do."""

    exit_code = 1


class UserError(EvenhandError):
    """The user's mistake: a wrong argument, recipe, file or model."""

    exit_code = 2


class RecipeError(UserError):
    """A recipe that cannot be run as written."""


class DataError(UserError):
    """Data that cannot be read, or of which nothing usable is left."""


class ModelError(UserError):
    """A model folder or tokenizer that cannot or may not be loaded."""


class TemplateError(ModelError):
    """A chat template that cannot render a conversation in the way scoring needs."""


class NoRoomError(UserError):
    """The disk has no room for what a run needs to keep; nothing was started."""


class MemoryShortError(UserError):
    """A row for which there is not enough memory, however its step is cut."""


class ConversationError(TemplateError):
    """One conversation that the template cannot render; others may be fine, so its row is refused."""


class GuardError(EvenhandError):
    """A guard stopped the run; the last checkpoint is good."""

    exit_code = 3


class NonFiniteError(GuardError):
    """A loss, gradient or weight became NaN or infinite; raised before the optimizer moves.

    `data_at_fault` is False where leaving the step out would not help.
    """

    def __init__(self, message: str, data_at_fault: bool = True) -> None:
        super().__init__(message)
        self.data_at_fault = data_at_fault


class CollapseError(GuardError):
    """Replies or log-probabilities show that the model is falling apart; the best checkpoint is kept."""


class LostRankError(EvenhandError):
    """Another process of a run on many ranks has died; the last checkpoint is good."""

    exit_code = 74


class StepTooLargeError(EvenhandError):
    """A micro-batch for which memory ran out: the step's gradients are incomplete and nothing has moved."""

    exit_code = 74


class StorageError(EvenhandError):
    """A disk or device failed or has no room."""

    exit_code = 74


class ExportError(EvenhandError):
    """An exported model is not the model that was trained; nothing was published."""


class JudgeError(EvenhandError):
    """A judge that is not shown to agree with people more often than chance; nothing was written."""


class RegistryError(EvenhandError):
    """A registry says no, or is not what its own log says; nothing was changed."""


class InterruptedRun(EvenhandError):
    """A signal stopped the run after its state was saved."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
