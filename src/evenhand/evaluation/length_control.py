"""Accuracy, or a win rate, as it would be between answers of equal length.

A logistic model of winning with a term for the tanh of the standardised difference in length, read where that difference is
0 (Dubois et al. 2024, arXiv 2404.04475, with one model a side in place of their many). Shapes: B items, P = 2 parameters.
"""

from dataclasses import dataclass

import numpy as np

from evenhand.evaluation.interval import Floats, Sample, student
from evenhand.figure import Figure

_FEWEST = 12
_STEPS = 60


@dataclass(frozen=True, slots=True)
class LengthControl:
    """`share` is the winning share at equal length; `length_effect` the log-odds that a much longer answer adds."""

    share: Figure
    length_effect: Figure


def length_controlled(won: Sample, longer_by_B: Floats) -> LengthControl:
    """Fit `won` (values within 0 and 1) on `longer_by_B`, the winner's side minus the other in tokens or characters.

    Fitted with Firth's penalty (1993), which stays finite where length separates wins from losses. The intervals are
    Student's on the log-odds, the variance that of leaving families out (HC3 by family). Not measured below twelve items,
    where all answers are of equal length, where one side is longer in all, so that equal length is outside of what
    was seen, and where the fit does not settle.
    """
    count = len(won)
    none = LengthControl(Figure(None, count), Figure(None, count))
    spread = float(longer_by_B.std()) if count else 0.0
    if count < _FEWEST or spread == 0 or longer_by_B.min() > 0 or longer_by_B.max() < 0:
        return none
    design_BP = np.stack([np.ones(count), np.tanh(longer_by_B / spread)], axis=1)
    fitted_P = _firth(design_BP, won.value_B)
    if fitted_P is None:
        return none
    error_P, freedom = _errors(design_BP, won, fitted_P)
    if not np.isfinite(error_P).all():
        return none
    if (error_P < 1e-9).any():  # all alike, as where all are ties: nothing tells how far off this is
        return LengthControl(Figure(_logistic(float(fitted_P[0])), count), Figure(float(fitted_P[1]), count))
    half_P = student(freedom) * error_P
    level, effect = (
        Figure(float(value), count, float(value - half), float(value + half)) for value, half in zip(fitted_P, half_P)
    )
    assert level.value is not None
    assert level.low is not None
    assert level.high is not None
    share = Figure(_logistic(level.value), count, _logistic(level.low), _logistic(level.high))
    return LengthControl(share, effect)


def _logistic(log_odds: float) -> float:
    return float(1 / (1 + np.exp(-log_odds)))


def _firth(design_BP: Floats, value_B: Floats) -> Floats | None:
    """The penalised maximum of the likelihood, by Newton's steps of at most 2; None where they do not settle."""
    fitted_P = np.zeros(design_BP.shape[1])
    for _ in range(_STEPS):
        p_B, inverse_PP, leverage_B = _state(design_BP, fitted_P)
        score_P = design_BP.T @ (value_B - p_B + leverage_B * (0.5 - p_B))
        step_P = np.clip(inverse_PP @ score_P, -2.0, 2.0)
        fitted_P = fitted_P + step_P
        if float(np.abs(step_P).max()) < 1e-8:
            return fitted_P
    return None


def _state(design_BP: Floats, fitted_P: Floats) -> tuple[Floats, Floats, Floats]:
    """Probabilities, the inverse information, and each item's leverage."""
    p_B = 1 / (1 + np.exp(-np.clip(design_BP @ fitted_P, -30, 30)))
    weight_B = p_B * (1 - p_B)
    inverse_PP: Floats = np.linalg.inv(design_BP.T @ (design_BP * weight_B[:, None])).astype(np.float64)
    leverage_B: Floats = weight_B * np.einsum("bp,pq,bq->b", design_BP, inverse_PP, design_BP)
    return p_B, inverse_PP, leverage_B


def _errors(design_BP: Floats, won: Sample, fitted_P: Floats) -> tuple[Floats, float]:
    """Standard errors of the parameters, families as one draw, and their degrees of freedom."""
    p_B, inverse_PP, leverage_B = _state(design_BP, fitted_P)
    pull_BP = design_BP * ((won.value_B - p_B) / np.maximum(1 - leverage_B, 0.1))[:, None]
    _, place_B = np.unique(won.family_B, return_inverse=True)
    pull_GP = np.stack([np.bincount(place_B, pull_BP[:, column]) for column in range(pull_BP.shape[1])], axis=1)
    families = len(pull_GP)
    correction = families / max(1, families - 1) if families < len(won) else 1.0
    variance_PP = inverse_PP @ (pull_GP.T @ pull_GP) @ inverse_PP * correction
    error_P: Floats = np.sqrt(np.diag(variance_PP)).astype(np.float64)
    return error_P, families - design_BP.shape[1]
