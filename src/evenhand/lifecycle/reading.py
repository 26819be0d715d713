"""How a trained model's preference is to be read: by which gap, times which beta, and against which reference."""

from dataclasses import dataclass

from evenhand.evaluation.interval import Floats
from evenhand.model.scores import ScoredPairs
from evenhand.training.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Reading:
    """`beta` times the gap is the log-odds that training widened; the gap is per token or summed, over a reference's
    where there is one."""

    beta: float
    per_token: bool
    needs_reference: bool

    def gap_B(self, pairs: ScoredPairs, reference: ScoredPairs | None) -> Floats:
        """The gap of each pair; the reference's is taken off where it is given."""
        own_B = pairs.gap_B(self.per_token)
        return own_B if reference is None else own_B - reference.gap_B(self.per_token)


# A model of which nothing is known: the probability with which it would say the one answer rather than the other.
PLAIN = Reading(1.0, False, False)
# A reward model's gap is the log-odds itself, whatever its training looked at beside it.
REWARDS = Reading(1.0, True, False)


def reading_of(recipe: Recipe | None) -> Reading:
    """The reading that a recipe's objective means; the plain one without a recipe, or without a beta."""
    if recipe is None:
        return PLAIN
    objective = recipe.objective.build()
    if objective.traits.of_rewards:
        return REWARDS
    beta = getattr(objective, "beta", None)
    if beta is None:
        return PLAIN
    return Reading(float(beta), objective.traits.length_normalised, objective.traits.needs_reference)
