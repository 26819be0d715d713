"""The learning rate of a step: linear warm-up, then cosine, linear or constant."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Schedule:
    """`peak` is reached at the end of the warm-up, which is a share of `steps`; no step has a rate of zero.

    >>> schedule = Schedule("linear", peak=1.0, warmup=0.5, steps=4)
    >>> [schedule.rate(step) for step in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    """

    kind: Literal["cosine", "linear", "constant"]
    peak: float
    warmup: float
    steps: int

    def rate(self, step: int) -> float:
        """The learning rate of optimizer step `step`, from 0."""
        warm = math.ceil(self.warmup * self.steps)
        if step < warm:
            return self.peak * (step + 1) / warm
        done = (step - warm) / max(1, self.steps - warm)
        match self.kind:
            case "constant":
                return self.peak
            case "linear":
                return self.peak * (1 - done)
            case "cosine":
                return self.peak * 0.5 * (1 + math.cos(math.pi * done))
