"""How fast two models answer on this machine, turn by turn, so that whatever else the machine does hits both alike."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from evenhand.evaluation.interval import Sample, student_mean
from evenhand.figure import Figure
from evenhand.model.forward import Policy, serving

_NEW_TOKENS = 16
_BATCH = 8
_ROUNDS = 8
_FEW_ROUNDS = 4
_MOST_ROUNDS = 24


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds of one reply alone and tokens per second of eight at once, candidate and incumbent, and their ratios.

    `slower_alone` and `slower_together` are times, candidate over incumbent: above 1 the candidate is slower.
    """

    seconds: tuple[Figure, Figure]
    tokens_per_second: tuple[Figure, Figure]
    slower_alone: Figure
    slower_together: Figure


@dataclass(frozen=True, slots=True)
class Answering:
    """How fast one model answers here: seconds to the first token of a prompt alone, and tokens a second alone and of
    eight prompts at once, the prompt's reading included."""

    first_token_seconds: Figure
    tokens_per_second_alone: Figure
    tokens_per_second_together: Figure

    def json(self) -> dict[str, Any]:
        """The shape in `evenhand evaluate --json`."""
        return {
            "first_token_seconds": self.first_token_seconds.json(),
            "tokens_per_second_alone": self.tokens_per_second_alone.json(),
            "tokens_per_second_together": self.tokens_per_second_together.json(),
        }


def answering_speed(policy: Policy, prompt: Sequence[int]) -> Answering:
    """Time a model on one prompt, a few rounds; the first round, which is cold, is not counted."""
    _seconds(policy, prompt, _BATCH)
    rounds = [
        (
            _seconds(policy, prompt, 1, 1),
            _NEW_TOKENS / _seconds(policy, prompt, 1),
            _BATCH * _NEW_TOKENS / _seconds(policy, prompt, _BATCH),
        )
        for _ in range(_FEW_ROUNDS)
    ]
    columns = np.array(rounds, dtype=np.float64).T
    return Answering(*(student_mean(Sample(column, np.arange(len(column)))) for column in columns))


def compare_speed(candidate: Policy, incumbent: Policy, prompt: Sequence[int], most: float) -> Speed:
    """Time both in turns; where the first rounds leave open whether a ratio is below `most`, more are run."""
    alone: list[tuple[float, float]] = []
    together: list[tuple[float, float]] = []
    for policy in (candidate, incumbent):  # nothing is measured cold
        _seconds(policy, prompt, _BATCH)
    while len(alone) < _MOST_ROUNDS:
        order = (candidate, incumbent) if len(alone) % 2 == 0 else (incumbent, candidate)
        alone.append(_round(order, candidate, lambda policy: _seconds(policy, prompt, 1)))
        together.append(_round(order, candidate, lambda policy: _seconds(policy, prompt, _BATCH)))
        if len(alone) >= _ROUNDS and all(_decided(ratio(rows), most) for rows in (alone, together)):
            break
    rates = [(_BATCH * _NEW_TOKENS / one, _BATCH * _NEW_TOKENS / other) for one, other in together]
    return Speed(_figures(alone), _figures(rates), ratio(alone), ratio(together))


def ratio(rows: Sequence[tuple[float, float]]) -> Figure:
    """The geometric mean of candidate over incumbent, with Student's interval on the logarithm.

    >>> ratio([(2.0, 1.0), (2.0, 1.0)])
    Figure(value=2.0, n=2, low=None, high=None)
    """
    logs = np.log(np.array([one / other for one, other in rows], dtype=np.float64))
    found = student_mean(Sample(logs, np.arange(len(logs))))
    ends = [None if end is None else float(np.exp(end)) for end in (found.low, found.high)]
    return Figure(None if found.value is None else float(np.exp(found.value)), found.n, ends[0], ends[1])


def _decided(found: Figure, most: float) -> bool:
    return found.low is None or found.high is None or found.high < most or found.low > most


def _round(order: tuple[Policy, Policy], candidate: Policy, measure: Callable[[Policy], float]) -> tuple[float, float]:
    first, second = (measure(policy) for policy in order)
    return (first, second) if order[0] is candidate else (second, first)


def _seconds(policy: Policy, prompt: Sequence[int], rows: int, new_tokens: int = _NEW_TOKENS) -> float:
    model: Any = policy.model
    ids = torch.tensor([list(prompt)] * rows, device=policy.device)
    with serving(model):
        _finish(policy)
        began = time.perf_counter()
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
            pad_token_id=0,
        )
        _finish(policy)
        return time.perf_counter() - began


def _finish(policy: Policy) -> None:
    if policy.device.type == "cuda":
        torch.cuda.synchronize(policy.device)


def _figures(rows: Sequence[tuple[float, float]]) -> tuple[Figure, Figure]:
    columns = np.array(rows, dtype=np.float64).T
    one, other = (student_mean(Sample(column, np.arange(len(column)))) for column in columns)
    return one, other
