"""The collapse guard: signs that a model is falling apart, each against what the untrained model showed."""

from dataclasses import dataclass

from evenhand.training.sections import GuardSection


@dataclass(frozen=True, slots=True)
class Vitals:
    """What is watched at each validation; the first three are None where no reply was asked for.

    `repetition` and `ended` are shares of 0 to 1, `chosen_mean` is in nats per token.
    """

    chosen_mean: float
    repetition: float | None = None
    ended: float | None = None
    median_tokens: float | None = None


def collapse_of(start: Vitals, now: Vitals, limits: GuardSection) -> str | None:
    """The first sign of collapse in words, with both values and the limit it passed; None where there is none."""
    fall = start.chosen_mean - now.chosen_mean
    if limits.chosen_fall is not None and fall > limits.chosen_fall:
        return (
            f"the mean log-probability of chosen answers fell from {start.chosen_mean:.2f} to {now.chosen_mean:.2f} nats "
            f"per token, by more than `guard.chosen_fall` ({limits.chosen_fall:g})"
        )
    return _sign_in_replies(start, now, limits)


def _sign_in_replies(start: Vitals, now: Vitals, limits: GuardSection) -> str | None:
    if start.repetition is None or start.ended is None or start.median_tokens is None:
        return None
    assert now.repetition is not None
    assert now.ended is not None
    assert now.median_tokens is not None
    if limits.repetition_rise is not None and now.repetition - start.repetition > limits.repetition_rise:
        return (
            f"repetition in replies rose from {start.repetition:.2f} to {now.repetition:.2f}, by more than "
            f"`guard.repetition_rise` ({limits.repetition_rise:g})"
        )
    if limits.ended_fall is not None and start.ended - now.ended > limits.ended_fall:
        return (
            f"the share of replies that end by themselves fell from {start.ended:.2f} to {now.ended:.2f}, by more than "
            f"`guard.ended_fall` ({limits.ended_fall:g})"
        )
    longer, shorter = sorted((max(now.median_tokens, 1.0), max(start.median_tokens, 1.0)), reverse=True)
    if limits.length_factor is not None and longer / shorter > limits.length_factor:
        return (
            f"the median reply went from {start.median_tokens:.0f} to {now.median_tokens:.0f} tokens, by more than "
            f"`guard.length_factor` ({limits.length_factor:g} times)"
        )
    return None
