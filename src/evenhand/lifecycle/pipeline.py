"""`evenhand run`: audit, curate, fine-tune if asked, SimPO, DPO on the same data, evaluate, compare, one report."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from evenhand.data.appraise import Asked as AuditAsked
from evenhand.data.appraise import appraise as audit
from evenhand.data.preparation import Wanted as Curated
from evenhand.data.preparation import prepare
from evenhand.data.snapshot import check_snapshot
from evenhand.errors import DataError, EvenhandError
from evenhand.evaluation.audit_page import write_audit_page
from evenhand.evaluation.comparison_page import write_comparison
from evenhand.evaluation.evaluate import Narrator
from evenhand.files import sha256, sha256_file, write_json, write_whole
from evenhand.lifecycle.appraisal import Asked, Say
from evenhand.lifecycle.base import weights_hash
from evenhand.lifecycle.compared import compare_entrants
from evenhand.lifecycle.entrant import Entrant, cost_of, entrants
from evenhand.lifecycle.examination import Wanted, examine
from evenhand.lifecycle.plan import Plan, stage_recipe
from evenhand.lifecycle.stages import Stage, Stages
from evenhand.model.load import choose_device, choose_dtype, find_source, load_model, load_tokenizer
from evenhand.model.modes import template_fingerprint, tokenizer_fingerprint


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A plan in its folder, and who hears of the progress."""

    plan: Plan
    folder: Path
    say: Say
    narrate: Narrator

    @property
    def data(self) -> Path:
        """The curated data."""
        return self.folder / "data"

    def run_folder(self, name: str) -> Path:
        """Where a training stage writes."""
        return self.folder / "runs" / name


def run_pipeline(pipeline: Pipeline) -> dict[str, Any]:
    """All stages in order, and what `evenhand run --json` prints.

    Each training stage is a process of its own, so that the peak memory it measures is its own. Raises what the stages
    raise; the same call again goes on from the last one that was finished.
    """
    recipe = pipeline.plan.recipe
    stages = Stages(pipeline.folder, _fixed(pipeline, recipe.model.source), pipeline.say)
    stages.perform(_audit(pipeline))
    stages.perform(_curate(pipeline))
    _check_data(pipeline, stages)
    start = _start(pipeline, stages)
    stages.perform(_training(pipeline, ("simpo", start), _swept(pipeline, stages, start)))
    names = ["simpo", *_dpo(pipeline, stages, start)]
    for name in names[:2]:
        stages.require(_fixed(pipeline, str(pipeline.run_folder(name))), name)
        stages.perform(_evaluation(pipeline, name))
    return _report(pipeline, stages, names)


def _fixed(pipeline: Pipeline, model: str) -> dict[str, str]:
    """What must be the same in every stage, or scores would not compare."""
    tokenizer = load_tokenizer(find_source(model))
    return {
        "template": template_fingerprint(tokenizer, pipeline.plan.recipe.form),
        "tokenizer": tokenizer_fingerprint(tokenizer),
    }


def _data_key(source: str) -> Any:
    """What a file or a folder of parts holds, by hash; a hub's data set is known by its name."""
    path = Path(source)
    files = [path] if path.is_file() else sorted(own for own in path.glob("*") if own.is_file())
    return {own.name: sha256_file(own) for own in files} or source


def _audit(pipeline: Pipeline) -> Stage:
    data, page = pipeline.plan.recipe.data, pipeline.folder / "audit.html"
    assert data.source is not None
    source = data.source

    def work() -> dict[str, Any]:
        found = audit(AuditAsked(source, data.kind), pipeline.say)
        write_audit_page(page, found)
        told = found.json()
        findings = {own["id"]: own["count"] for own in told["findings"]}
        return {"rows_in": told["rows_in"], "rows_used": told["rows_used"], "findings": findings}

    return Stage("audit", {"data": _data_key(source), "kind": data.kind}, (page, page.with_suffix(".json")), work)


def _curate(pipeline: Pipeline) -> Stage:
    data, seed, rules = pipeline.plan.recipe.data, pipeline.plan.stages.seed, pipeline.plan.stages.curate
    assert data.source is not None
    assert isinstance(data.validation, float)
    source, share = data.source, data.validation

    def work() -> dict[str, Any]:
        wanted = Curated(share, seed, data.kind, pipeline.plan.stages.rules)
        dataset = prepare(source, pipeline.data, wanted, pipeline.say)
        return {"hash": dataset["hash"], "counts": dataset["counts"], "split": {"validation": share, "seed": seed}}

    inputs = {"data": _data_key(source), "kind": data.kind, "validation": share, "seed": seed}
    inputs |= {"rules": rules} if rules else {}
    return Stage("curate", inputs, (pipeline.data / "dataset.json",), work)


def _check_data(pipeline: Pipeline, stages: Stages) -> None:
    """Refuse curated data that is not what was written, or has other columns than before."""
    _, problems = check_snapshot(pipeline.data)
    if problems:
        raise DataError(f"{pipeline.data} is not what was curated: {problems[0]}; remove it to curate again.")
    columns = [str(pq.read_schema(pipeline.data / f"{side}.parquet")) for side in ("train", "validation")]
    stages.keep({"schema": sha256("\n".join(columns).encode())}, str(pipeline.data))


def _start(pipeline: Pipeline, stages: Stages) -> str:
    """The model that alignment starts from: the recipe's, or that model fine-tuned, merged into one and measured."""
    plan, sft = pipeline.plan, pipeline.plan.stages.sft
    if sft is None:
        return plan.recipe.model.source
    length = {"epochs": sft.epochs, "steps": sft.steps} if sft.epochs or sft.steps else {}
    changes = {"objective": {"name": "sft"}, "training": {"learning_rate": sft.learning_rate, **length}}
    stages.perform(_training(pipeline, ("sft", plan.recipe.model.source), changes))
    merged = pipeline.folder / "start"

    def work() -> dict[str, Any]:
        source, device = find_source(str(pipeline.run_folder("sft"))), choose_device()
        model = load_model(source, choose_dtype(plan.recipe.model.dtype, device), device)
        whole = model.merge_and_unload() if source.base is not None else model
        whole.save_pretrained(merged)
        load_tokenizer(source).save_pretrained(merged)
        return {"weights": weights_hash(find_source(str(merged)))}

    stages.require(_fixed(pipeline, str(pipeline.run_folder("sft"))), "sft")
    stages.perform(Stage("start", {"sft": _weights(pipeline, "sft")}, (merged / "config.json",), work))
    return str(merged)


def _swept(pipeline: Pipeline, stages: Stages, start: str) -> dict[str, Any]:
    """The best trial's objective and training settings; nothing to change without a sweep."""
    section = pipeline.plan.stages.sweep
    if section is None:
        return {}
    out, recipe_file = pipeline.folder / "sweep", pipeline.folder / "sweep.yaml"
    recipe = stage_recipe(pipeline.plan, "sweep", start, {"data": {"source": str(pipeline.data)}})
    recipe["sweep"] = section.model_dump(mode="json")

    def work() -> dict[str, Any]:
        write_whole(recipe_file, json.dumps(recipe, indent=2) + "\n")
        _run([sys.executable, "-m", "evenhand", "sweep", str(recipe_file), "--out", str(out), "--json"], "sweep")
        found = json.loads((out / "sweep.json").read_text(encoding="utf-8"))
        if found["best"] is None:
            raise EvenhandError(f"no trial of the sweep may win; {out / 'sweep.html'} says why.")
        return {"best": found["best"]["params"], "trials": len(found["trials"]), "equals": found["equals"]}

    stages.perform(Stage("sweep", _inputs(pipeline, recipe, start), (out / "best.yaml",), work))
    best = yaml.safe_load((out / "best.yaml").read_text(encoding="utf-8"))
    return {
        "objective": best["objective"],
        "training": best["training"],
        "model": {"adapter": best["model"].get("adapter")},
    }


def _dpo(pipeline: Pipeline, stages: Stages, start: str) -> list[str]:
    """DPO once for each way to have its reference; the first one is compared."""
    dpo = pipeline.plan.stages.dpo
    if dpo is None:
        return []
    rate = {} if dpo.learning_rate is None else {"training": {"learning_rate": dpo.learning_rate}}
    names: list[str] = []
    for mode in dpo.references:
        name = "dpo" if not names else f"dpo-{mode.replace('_', '-')}"
        objective = {"name": "dpo", "beta": dpo.beta, "reference": mode}
        stages.perform(_training(pipeline, (name, start), {"objective": objective, **rate}))
        names.append(name)
    return names


def _training(pipeline: Pipeline, named: tuple[str, str], changes: dict[str, Any]) -> Stage:
    name, start = named
    folder, recipe_file = pipeline.run_folder(name), pipeline.folder / f"{name}.yaml"
    recipe = stage_recipe(pipeline.plan, name, start, changes | {"data": {"source": str(pipeline.data)}})

    def work() -> dict[str, Any]:
        write_whole(recipe_file, json.dumps(recipe, indent=2) + "\n")  # JSON is YAML
        command = [sys.executable, "-m", "evenhand", "train", str(recipe_file), "--out", str(folder), "--json"]
        _run(command, name)
        cost = cost_of(folder)
        return {"run": str(folder), "cost": cost.json() if cost else None}

    return Stage(name, _inputs(pipeline, recipe, start), (folder / "done.json", folder / "model"), work)


def _inputs(pipeline: Pipeline, recipe: dict[str, Any], start: str) -> dict[str, Any]:
    """All that decides what training gives."""
    dataset = json.loads((pipeline.data / "dataset.json").read_text(encoding="utf-8"))
    return {"recipe": recipe, "data": dataset["hash"], "start": weights_hash(find_source(start))}


def _run(command: Sequence[str], name: str) -> None:
    """Run a stage as a process whose words go to stderr; its failure is ours, with its exit code."""
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        error = EvenhandError(f"the stage {name} ended with code {done.returncode}; what it said is above.")
        error.exit_code = done.returncode if done.returncode > 0 else 128 - done.returncode
        raise error


def _weights(pipeline: Pipeline, name: str) -> str:
    return weights_hash(find_source(str(pipeline.run_folder(name))))


def _evaluation(pipeline: Pipeline, name: str) -> Stage:
    run, file = pipeline.run_folder(name), pipeline.folder / "evaluation" / f"{name}.json"
    evaluation = pipeline.plan.recipe.evaluation

    def work() -> dict[str, Any]:
        wanted = Wanted(evaluation.prompts, train=str(pipeline.data / "train.parquet"))
        found = examine(Asked(str(run), str(pipeline.data)), wanted, pipeline.say, pipeline.narrate).json()
        write_json(file, found)
        return {key: found[key] for key in ("drift", "train_gap", "length_controlled_accuracy", "speed")}

    inputs = {"weights": _weights(pipeline, name), "evaluation": evaluation.model_dump(mode="json")}
    return Stage(f"evaluate {name}", inputs, (file,), work)


def _report(pipeline: Pipeline, stages: Stages, names: Sequence[str]) -> dict[str, Any]:
    """SimPO against DPO, or against its start where there is no DPO, on one page with the stages before it."""
    runs = [str(pipeline.run_folder(name)) for name in ("dpo", "simpo") if name in names]
    given: list[Entrant] = [
        replace(own, drift=stages.told()[f"evaluate {own.run.name}"]["facts"]["drift"]) if own.run else own
        for own in entrants(runs, None, pipeline.say, pipeline.narrate, fewest=1)
    ]
    if pipeline.plan.stages.sweep is not None:
        given[-1] = given[-1].selected_among(stages.told()["sweep"]["facts"]["trials"])
    found = compare_entrants([given[-1].at_start(), *given] if len(given) == 1 else given)
    costs: Mapping[str, Any] = {name: own.json() for name in names if (own := cost_of(pipeline.run_folder(name)))}
    page = pipeline.folder / "report.html"
    value = found.value | {"costs": costs, "stages": stages.told(), "page": str(page)}
    write_comparison(page, found.told, value)
    return value
