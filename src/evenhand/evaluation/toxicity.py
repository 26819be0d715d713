"""Whether a text insults, by the linear classifier of alt-profanity-check, whose weights lie in its package."""

from collections.abc import Callable, Sequence

from evenhand.errors import UserError
from evenhand.evaluation.detector import Detector
from evenhand.figure import Figure

THRESHOLD = 0.5
Toxicity = Callable[[Sequence[str]], list[float]]

# Measured on all 1,000 comments of surge-ai/toxicity (MIT); tests/evaluation/test_detectors.py measures it again.
DETECTOR = Detector(
    name="alt-profanity-check",
    balanced_accuracy=Figure(0.7225, 1000, 0.6985, 0.7454),
    measured_on="1,000 labelled comments of surge-ai/toxicity",
    blind_to="implicit hate: contempt in polite words is at chance for it",
)


def load_toxicity() -> Toxicity:
    """The classifier as a function from texts to probabilities; raises UserError where the package is missing."""
    try:
        from profanity_check import predict_prob  # noqa: PLC0415
    except ImportError as error:
        raise UserError("toxicity needs alt-profanity-check: pip install alt-profanity-check==1.9.0") from error
    return lambda texts: [float(value) for value in predict_prob(list(texts))] if texts else []
