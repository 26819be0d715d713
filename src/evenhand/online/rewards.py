"""What a reply is worth: plain functions, checked, and added up by their weights."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evenhand.errors import NonFiniteError
from evenhand.online.rollout import Drawn

# The worth of each reply.
Function = Callable[[Sequence[Drawn]], Sequence[float]]


@dataclass(frozen=True, slots=True)
class Reward:
    """A function with the name that errors and reports call it by, and its weight in the sum."""

    name: str
    function: Function
    weight: float = 1.0


class BrokenRewardError(NonFiniteError):
    """A reward that threw, was not a number, or was the same for all replies: there is nothing to learn from."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"the reward {name} {why}")
        self.name = name


def worth(rewards: Sequence[Reward], drawn: Sequence[Drawn], must_differ: bool = False) -> list[float]:
    """The weighted sum of all rewards for each reply.

    Raises BrokenRewardError, which names the reward, where one throws, gives another number of values or one that is no
    number; and with `must_differ` where the sum is the same for all.
    """
    parts = [(reward, _values(reward, drawn)) for reward in rewards]
    total = [math.fsum(reward.weight * values[i] for reward, values in parts) for i in range(len(drawn))]
    if must_differ and len(total) > 1 and len(set(total)) == 1:
        names = " + ".join(reward.name for reward in rewards)
        raise BrokenRewardError(names, f"is {total[0]:g} for all {len(total)} replies")
    return total


def _values(reward: Reward, drawn: Sequence[Drawn]) -> list[float]:
    try:
        values = [float(value) for value in reward.function(drawn)]
    except BrokenRewardError:
        raise
    except Exception as error:  # a user's function may raise anything
        raise BrokenRewardError(reward.name, f"threw {type(error).__name__}: {error}") from error
    if len(values) != len(drawn):
        raise BrokenRewardError(reward.name, f"gave {len(values)} values for {len(drawn)} replies")
    if broken := [(i, value) for i, value in enumerate(values) if not math.isfinite(value)]:
        at, value = broken[0]
        raise BrokenRewardError(
            reward.name, f"is {value} for {len(broken)} of {len(values)} replies, first {drawn[at].text[:60]!r}"
        )
    return values
