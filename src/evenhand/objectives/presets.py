"""Published settings of SimPO, each with its source; a preset sets beta and margin and nothing else."""

from dataclasses import dataclass

AUTHORS = "github.com/princeton-nlp/SimPO, README, hyperparameters"
GUIDE = "the Harbor Support guide: beta 2.0, margin 0.5"


@dataclass(frozen=True, slots=True)
class Preset:
    """`learning_rate` is advice for full fine-tuning (AdamW, cosine, warm-up 0.1, 1 epoch, 128 pairs a step)."""

    beta: float
    margin: float
    learning_rate: float | None
    source: str


PRESETS = {
    "simpo-mistral-base": Preset(2.0, 0.8, 3e-7, AUTHORS),
    "simpo-mistral-instruct": Preset(2.5, 0.1, 5e-7, AUTHORS),
    "simpo-llama3-base": Preset(2.0, 0.5, 6e-7, AUTHORS),
    "simpo-llama3-instruct": Preset(2.5, 0.55, 1e-6, AUTHORS),
    "simpo-llama3-instruct-v0.2": Preset(10.0, 0.3, 1e-6, AUTHORS),
    "simpo-gemma2": Preset(10.0, 0.5, 8e-7, AUTHORS),
    "simpo-guide": Preset(2.0, 0.5, None, GUIDE),
}
