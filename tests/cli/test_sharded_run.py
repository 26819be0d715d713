"""`evenhand train` on two processes that share the weights: validations, replies, the model and the report."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from small_model import learnable, recipe_value, write_recipe, write_rows

SECONDS = 300
ONE, TWO = ["-m"], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]


def trained(launcher: list[str], recipe: Path, out: Path) -> dict[str, object]:
    """The report of the run, and its weights beside it."""
    command = [sys.executable, *launcher, "evenhand", "train", str(recipe), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, cwd=out.parent, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report: dict[str, object] = json.loads((out / "report.json").read_text())["after"]
    return report


@pytest.mark.parametrize("adapter", [{"rank": 4, "alpha": 8}, None], ids=["lora", "full"])
def test_shards_end_with_the_model_and_the_report_of_one_process(
    tmp_path: Path, small_model: Path, adapter: dict[str, int] | None
) -> None:
    data = {"source": str(write_rows(tmp_path / "pairs.jsonl", learnable(40))), "validation": 0.2}
    rate = {"learning_rate": 1e-6} if adapter is None else {}
    value = recipe_value(small_model, data, steps=4, validate_every=2, checkpoint_every=2, parallel="fsdp", **rate)
    value["model"]["adapter"] = adapter
    value["guard"] = {"prompts": 2}
    recipe = write_recipe(tmp_path / "recipe.yaml", value)
    found, wanted = trained(TWO, recipe, tmp_path / "two"), trained(ONE, recipe, tmp_path / "one")
    assert found["pairwise_accuracy"] == wanted["pairwise_accuracy"]
    two, one = (load_file(next((tmp_path / name / "model").glob("*model.safetensors"))) for name in ("two", "one"))
    assert two.keys() == one.keys()
    assert max(float((two[name] - one[name]).abs().max()) for name in one) < 1e-6
    assert len(list((tmp_path / "two" / "rows").glob("step-*.parquet"))) == 3
