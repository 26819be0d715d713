"""A model that takes part in a gate: loaded, known by hash, and with the form in which it was trained."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from evenhand.data.schema import PreferencePair
from evenhand.data.snapshot import content_hash
from evenhand.errors import DataError, ExportError, ModelError, RecipeError
from evenhand.evaluation.generate import Serving
from evenhand.lifecycle.base import require_shipped_base, weights_hash
from evenhand.lifecycle.manifest import NAME, manifest_hash, problems, read_manifest
from evenhand.model.forward import Policy
from evenhand.model.load import DtypeName, Source, choose_device, choose_dtype, find_source, load_model, load_tokenizer
from evenhand.model.modes import Form, prompt_encoder
from evenhand.model.places import place_of
from evenhand.training.material import read_texts
from evenhand.training.recipe import Recipe, check_recipe


@dataclass(frozen=True, slots=True)
class Contestant:
    """A loaded model with its serving form; `recipe` and `data_hash` where a run or an export states them."""

    name: str
    source: Source
    policy: Policy
    tokenizer: PreTrainedTokenizerBase
    form: Form
    serving: Serving
    manifest_sha256: str | None
    weights_sha256: str
    recipe: Recipe | None
    data_hash: str | None

    def json(self) -> dict[str, Any]:
        """How a gate's result names it."""
        return {
            "name": self.name,
            "manifest_sha256": self.manifest_sha256,
            "weights_sha256": self.weights_sha256,
            "data_sha256": self.data_hash,
        }

    def own_held_out(self) -> tuple[tuple[PreferencePair, ...], str | None]:
        """The held-out pairs of the run that made it, or none and why."""
        if self.recipe is None:
            return (), "the candidate names no held-out pairs; give some with --data"
        try:
            texts = read_texts(self.recipe.data)
        except (DataError, RecipeError, OSError) as error:
            return (), f"the candidate's own held-out pairs cannot be read ({error}); give some with --data"
        if content_hash(texts.train, texts.validation) != self.data_hash:
            return (), "the candidate's own data has changed since it was trained; give held-out pairs with --data"
        if not texts.validation:
            return (), "the candidate's run held no pairs out; give some with --data"
        return texts.validation, None


def load_contestant(name: str, dtype: DtypeName, say: Callable[[str], None]) -> Contestant:
    """Load a run, an export, a model folder or a hub id, adapters merged into their base.

    Raises ExportError for an export that is not what was shipped, ModelError where an adapter's base is another one.
    """
    source = find_source(name)
    stated = _stated(source)
    device = choose_device()
    say(f"loading {name}")
    model = load_model(source, choose_dtype(dtype, device), device)
    whole = model.merge_and_unload() if isinstance(model, PeftModel) else model
    tokenizer = load_tokenizer(source)
    recipe = _recipe(stated.get("recipe"), name)
    form = recipe.form if recipe else Form(max_tokens=2048)
    feed, stops = prompt_encoder(tokenizer, form)
    return Contestant(
        name=name,
        source=source,
        policy=Policy(whole),
        tokenizer=tokenizer,
        form=form,
        serving=Serving(tokenizer, feed, stops),
        manifest_sha256=manifest_hash(source.folder) if (source.folder / NAME).exists() else None,
        weights_sha256=weights_hash(source),
        recipe=recipe,
        data_hash=stated.get("data"),
    )


def require_answers(found: Contestant) -> None:
    """Raise ModelError for a reward model, where one that answers is asked for."""
    if found.policy.gives_rewards:
        raise ModelError(f"{found.name} is a reward model and answers nothing; it can be a --reward or a --judge.")


def _stated(source: Source) -> dict[str, Any]:
    """What the folder states of its recipe and data, once it is what was shipped and stands on the base it names."""
    if (source.folder / NAME).exists():
        if found := problems(source.folder):
            raise ExportError(f"{source.folder} is not what was shipped: {found[0].path} {found[0].what}.")
        manifest = read_manifest(source.folder)
        require_shipped_base(source)
        return {"recipe": _with_own_data(manifest), "data": manifest["data"]["hash"]}
    run = source.folder.parent
    if source.folder.name != "model" or not (run / "recipe.json").exists() or not (run / "identity.json").exists():
        return {}
    recipe = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
    return {"recipe": recipe, "data": json.loads((run / "identity.json").read_text(encoding="utf-8"))["data"]}


def _with_own_data(manifest: dict[str, Any]) -> dict[str, Any]:
    """The recipe as shipped, its data by the paths of this machine where the run was exported here."""
    recipe: dict[str, Any] = manifest["recipe"]
    paths = (place_of(manifest["data"]["hash"]) or {}).get("data", {})
    return recipe | {"data": recipe["data"] | paths}


def _recipe(value: dict[str, Any] | None, name: str) -> Recipe | None:
    return None if value is None else check_recipe(value, name)
