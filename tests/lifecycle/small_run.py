"""A finished run of the small model, for whatever is done with runs afterwards."""

from pathlib import Path

from small_model import listening, recipe_value, rows, write_rows

from evenhand.lifecycle.align import align
from evenhand.training.recipe import check_recipe


def finished_run(folder: Path, model: Path, adapter: bool = True, seed: int = 0, dtype: str = "float32") -> Path:
    """Train for five steps in `folder`/run and return that folder; the data lies beside it."""
    made = rows(26)
    data = {
        "train": str(write_rows(folder / "train.jsonl", made[:18])),
        "validation": str(write_rows(folder / "held_out.jsonl", made[18:])),
    }
    value = recipe_value(model, data, seed=seed)
    value["model"]["dtype"] = dtype
    if not adapter:
        value["model"]["adapter"] = None
    return align(check_recipe(value, "recipe.yaml"), folder / "run", listening()[0])
