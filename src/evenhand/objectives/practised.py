"""What the rooms below know of a method that learns from replies it draws: its settings, and that it asks for prompts."""

from dataclasses import dataclass
from typing import Any

from evenhand.objectives.objective import Traits


@dataclass(frozen=True, slots=True)
class Practised:
    """A method whose loss is of drawn replies and not of pairs, so that it cannot be called with scores."""

    settings: dict[str, Any]

    @property
    def traits(self) -> Traits:
        """Prompts are all it takes from data."""
        return Traits(examples="prompts", only_gap_counts=False)
