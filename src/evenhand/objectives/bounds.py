"""The bounds of objectives' numbers, each refused in one sentence that names the recipe's key."""

import math

from evenhand.errors import RecipeError


def require_above_zero(key: str, value: float, advice: str) -> None:
    """Raise RecipeError unless `value` is a finite number above 0."""
    if not 0 < value < math.inf:
        raise RecipeError(f"`objective.{key}` is {value}; it must be a number above 0, {advice}.")


def require_weight(key: str, value: float) -> None:
    """Raise RecipeError unless `value` is a finite number of at least 0."""
    if not 0 <= value < math.inf:
        raise RecipeError(f"`objective.{key}` is {value}; it must be a number of at least 0.")


def require_minority(key: str, value: float) -> None:
    """Raise RecipeError unless `value` is a share of labels that may be wrong: at least 0, below one half."""
    if not 0 <= value < 0.5:
        raise RecipeError(f"`objective.{key}` is {value}; it must be at least 0 and below 0.5.")
