"""The reference that a recipe asks for: the starting model, by one of three ways, or another model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from evenhand.lifecycle.base import weights_hash
from evenhand.model.forward import Policy, require_positions
from evenhand.model.load import choose_device, choose_dtype, find_source, load_model, load_tokenizer
from evenhand.model.reference import AdapterOff, Reference, SecondModel, require_same_text
from evenhand.model.reference_cache import keep_scores, read_cache
from evenhand.model.score import score_pairs
from evenhand.model.scores import ScoredPairs
from evenhand.model.store import tokens_hash
from evenhand.training.material import Material
from evenhand.training.objective_sections import ReferenceSection
from evenhand.training.ranks import Ranks
from evenhand.training.recipe import Recipe

# What decides a reference's scores, of the names that make a run what it is.
_DECIDING = ("model", "reference", "data", "template", "tokenizer")


@dataclass(frozen=True, slots=True)
class Keeping:
    """Where cached scores lie if the recipe does not say, what they follow from by name, and which pairs they are of."""

    folder: Path
    identity: Mapping[str, str]
    material: Material
    ranks: Ranks


def reference_identity(recipe: Recipe, ranks: Ranks) -> dict[str, str]:
    """What a run with a reference is known by, beside everything else: the way it takes and another model's weights."""
    section = recipe.objective
    if not isinstance(section, ReferenceSection):
        return {}
    found: dict[str, str] = {"objective.reference": section.reference}
    if section.reference_model is not None:
        source = find_source(section.reference_model)
        found["reference"] = ranks.from_first(weights_hash(source) if ranks.first else None)
    return found


def open_reference(
    recipe: Recipe, policy: Policy, tokenizer: PreTrainedTokenizerBase, keeping: Keeping
) -> Reference | None:
    """The reference of the recipe, before training begins; None for an objective without one.

    Raises ModelError for another model with another tokenizer or template, DataError for a cache that is of something
    else or damaged.
    """
    section = recipe.objective
    if not isinstance(section, ReferenceSection):
        return None
    match section.reference:
        case "adapter_off":
            return AdapterOff(policy)
        case "model":
            second = second_model(recipe, section, tokenizer)
            require_positions(second.policy, keeping.material.train)
            return second
        case "cached":
            return _cached(recipe, section, (policy, tokenizer), keeping)


def second_model(recipe: Recipe, section: ReferenceSection, tokenizer: PreTrainedTokenizerBase) -> SecondModel:
    """The reference model in memory of its own, in the policy's precision."""
    name = section.reference_model or recipe.model.source
    source, device = find_source(name), choose_device()
    require_same_text(tokenizer, load_tokenizer(source), recipe.form, name)
    model = load_model(source, choose_dtype(recipe.model.dtype, device), device, recipe.model.load_in_4bit)
    return SecondModel(Policy(model), name)


def _cached(
    recipe: Recipe, section: ReferenceSection, own: tuple[Policy, PreTrainedTokenizerBase], keeping: Keeping
) -> Reference:
    """Scores from the file, made by the policy as it is before training, or by a second model that is let go again."""
    path = Path(section.reference_cache) if section.reference_cache else keeping.folder / "reference" / "scores.parquet"
    policy, tokenizer = own
    pairs = [*keeping.material.train, *keeping.material.validation]

    def make() -> ScoredPairs:
        if section.reference_model is not None:
            return score_pairs(second_model(recipe, section, tokenizer).policy, pairs)
        return score_pairs(policy, pairs)

    key = {name: keeping.identity[name] for name in _DECIDING if name in keeping.identity} | {
        "tokens": tokens_hash(pairs),
        "precision": str(next(policy.parameters()).dtype).removeprefix("torch."),
    }
    if keeping.ranks.first:
        keep_scores(path, key, pairs, make)
    keeping.ranks.wait()
    return read_cache(path, policy.device)
