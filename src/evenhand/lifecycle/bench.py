"""A run's parts, loaded, and who is told of what happens."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from evenhand.evaluation.evaluate import HeldOut, Narrator
from evenhand.lifecycle.practising import Exercise
from evenhand.model.forward import Policy
from evenhand.training.material import Material
from evenhand.training.ranks import Ranks
from evenhand.training.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Telling:
    """Who is told what: sentences, progress of a stage, and each step's record with the number of steps."""

    say: Callable[[str], None]
    narrate: Narrator
    step: Callable[[dict[str, Any], int], None]


@dataclass(frozen=True, slots=True)
class Bench:
    """A run's parts, loaded: recipe, tokenizer, material, policy, and where it writes."""

    recipe: Recipe
    tokenizer: PreTrainedTokenizerBase
    material: Material
    policy: Policy
    folder: Path
    identity: dict[str, str]
    tell: Telling
    allowed: tuple[str, ...]
    ranks: Ranks
    exercise: Exercise | None = None

    @property
    def held_out(self) -> HeldOut:
        """The validation side."""
        return HeldOut(self.material.validation, self.material.held_out, self.recipe.form)
