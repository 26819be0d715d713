"""Where a run's model comes from: recipe, data, base, code, seeds, hardware and results, as a manifest states them."""

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import evenhand
from evenhand.errors import ModelError, RecipeError, UserError
from evenhand.files import canonical_json, sha256, sha256_file
from evenhand.lifecycle.base import Base, weights_hash
from evenhand.model.load import Source, find_source, load_tokenizer
from evenhand.model.places import portable
from evenhand.training.recipe import Recipe, check_recipe

_LIBRARIES = ("torch", "transformers", "peft", "safetensors")


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run folder whose model is there to be shipped; `weights` is the hash that they had when the run ended."""

    folder: Path
    recipe: Recipe
    identity: dict[str, str]
    step: int
    report: dict[str, Any] | None
    weights: str | None = None

    @property
    def model(self) -> Path:
        """The folder of the trained model."""
        return self.folder / "model"


def read_run(folder: Path) -> FinishedRun:
    """The finished run in `folder`; raises UserError where there is none, ModelError where its weights were changed since."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give a run folder, as `evenhand train` writes it.")
    if not (folder / "recipe.json").exists():
        raise UserError(f"{folder} holds no recipe.json; give a run folder, as `evenhand train` writes it.")
    if not (folder / "done.json").exists() or not (folder / "model").is_dir():
        raise UserError(
            f"{folder} holds a run that has not finished; run `evenhand train` again, which goes on with it."
        )
    try:
        recipe = check_recipe(_json(folder / "recipe.json"), str(folder / "recipe.json"))
        done = _json(folder / "done.json")
        report = _json(folder / "report.json") if (folder / "report.json").exists() else None
        run = FinishedRun(folder, recipe, dict(done["identity"]), int(done["step"]), report, done.get("weights"))
    except (ValueError, KeyError, TypeError, RecipeError) as error:
        raise UserError(f"{folder}: the run's files cannot be read ({error}); train it again.") from error
    found = weights_hash(Source(recipe.name, run.model))
    if run.weights not in (None, found):
        raise ModelError(
            f"{run.model} is not what the run ended with: its weights hash to {found[:16]} and the run noted "
            f"{run.weights[:16]}; get the files back, or train it again."
        )
    return run


def facts_of(run: FinishedRun, base: Base) -> dict[str, Any]:
    """Everything that a manifest says of a run besides its files; what was not measured is null.

    The recipe names the base as the manifest does and files by their names: no folder of this machine goes out.
    """
    resolved = portable(run.recipe.resolved())
    resolved["model"]["source"] = base.name
    report = run.report or {}
    tokenizer = load_tokenizer(find_source(str(run.model)))
    return {
        "name": run.recipe.name,
        "step": run.step,
        "base": base.json(),
        "recipe": resolved,
        "data": data_facts(run),
        "tokenizer_sha256": tokenizer_hash(run.model),
        "template_sha256": sha256(canonical_json([tokenizer.chat_template, resolved["data"]["template_arguments"]])),
        "form_sha256": run.identity.get("tokenizer or template"),
        "code": code_facts(),
        "seeds": {"training": run.recipe.training.seed, "split": run.recipe.data.split_seed},
        "hardware": report.get("machine"),
        "results": {key: report.get(key) for key in ("before", "after", "differences", "verdict")} if report else None,
    }


def data_facts(run: FinishedRun) -> dict[str, Any]:
    """The hash of the pairs, the counts of rows where the run reports them, and a curated set's own parents."""
    counts = (run.report or {}).get("data", {})
    facts = {"hash": run.identity["data"], **{key: counts.get(key) for key in ("rows_in", "rows_used", "refused")}}
    source = run.recipe.data.source
    dataset = Path(source) / "dataset.json" if source is not None else None
    if dataset is None or not dataset.exists():
        return facts | {"parents": None}
    described = _json(dataset)
    same = described.get("hash") == run.identity["data"]
    return facts | {"parents": described.get("parents") if same else None}


def tokenizer_hash(folder: Path) -> str | None:
    """The hash of the folder's tokenizer, None where it has none of its own."""
    file = folder / "tokenizer.json"
    return sha256_file(file) if file.exists() else None


def code_facts() -> dict[str, str]:
    """evenhand's version and the hash of its source, and the versions of what computes."""
    root = Path(evenhand.__file__).parent
    files = {str(path.relative_to(root)): sha256_file(path) for path in sorted(root.rglob("*.py"))}
    libraries = {name: version(name).partition("+")[0] for name in _LIBRARIES}
    return {"evenhand": evenhand.__version__, "source_sha256": sha256(canonical_json(files)), **libraries}


def _json(file: Path) -> dict[str, Any]:
    value = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"{file.name} holds no JSON object")
    return value
