"""The built-in story: Harbor Support's judgments, the built-in model, SimPO, and a report."""

from pathlib import Path

import yaml

from evenhand.data.harbor import write_harbor
from evenhand.data.preparation import Wanted, prepare
from evenhand.files import write_whole
from evenhand.lifecycle.align import align
from evenhand.lifecycle.bench import Telling
from evenhand.training.recipe import read_recipe

SEED = 0
VALIDATION = 0.2
JUDGMENTS, QUICK_JUDGMENTS = 2400, 240


def demonstrate(folder: Path, quick: bool, tell: Telling) -> Path:
    """Make the data, curate it, train and report in `folder`; what is done already is skipped. Returns the run folder."""
    folder = folder / "quick" if quick else folder
    judgments = folder / "judgments" / "judgments.jsonl"
    if not judgments.exists():
        tell.say(f"writing Harbor Support's judgments to {judgments}")
        write_harbor(judgments.parent, SEED, judgments=QUICK_JUDGMENTS if quick else JUDGMENTS)
    data = folder / "data"
    if not (data / "dataset.json").exists():
        prepare(str(judgments), data, Wanted(validation=VALIDATION, seed=SEED), tell.say)
    name = "quick" if quick else "simpo"
    recipe_file = folder / f"{name}.yaml"
    if not recipe_file.exists():
        write_whole(recipe_file, yaml.safe_dump(recipe_of(name, data, quick), sort_keys=False))
    return align(read_recipe(recipe_file), folder / "runs" / name, tell)


def recipe_of(name: str, data: Path, quick: bool) -> dict[str, object]:
    """The demo's recipe; the quick one is too short to show anything but that every part runs."""
    return {
        "name": name,
        "model": {"source": "builtin:smollm2-135m", "adapter": {"rank": 16, "alpha": 32}, "dtype": "auto"},
        "data": {"source": str(data), "max_tokens": 512},
        "objective": {"name": "simpo", "beta": 2.0, "margin": 0.5},
        "training": {
            "batch_pairs": 4 if quick else 16,
            "steps": 2 if quick else 16,
            "learning_rate": 6.0e-4,
            "schedule": "cosine",
            "warmup": 0.1,
            "seed": 0,
        },
        "evaluation": {"prompts": 2 if quick else 24, "max_new_tokens": 16 if quick else 256},
    }
