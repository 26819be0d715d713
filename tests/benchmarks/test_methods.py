"""The recipes that methods are compared by, and how the cost of an audit is told."""

import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "benchmarks"

RECIPES = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from methods import OBJECTIVES, Bench
from evenhand.training.recipe import check_recipe
bench = Bench(Path("data"), Path("out"), steps=8, drawn_steps=4, prompts=16)
for name in OBJECTIVES:
    recipe = check_recipe(bench.recipe(name), name)
    print(name, recipe.objective.name, recipe.training.steps, recipe.evaluation.prompts, len(recipe.rewards))
"""


def test_every_method_has_a_recipe_of_the_same_length_and_those_that_draw_are_rewarded() -> None:
    done = subprocess.run([sys.executable, "-c", RECIPES, str(FOLDER)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told = {name: rest for name, *rest in (line.split() for line in done.stdout.splitlines())}
    assert told["reward"] == ["reward", "8", "0", "0"]
    assert told["ppo"][1:] == told["grpo"][1:] == ["4", "16", "1"]
    others = {tuple(rest[1:]) for name, rest in told.items() if name not in {"reward", "ppo", "grpo"}}
    assert others == {("8", "16", "0")}


def test_the_cost_of_an_audit_is_told_for_each_size() -> None:
    command = [sys.executable, str(FOLDER / "audit.py"), "--rows", "60", "120", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines() if re.match(r"\| \d", line)]
    assert [row[0].strip() for row in rows] == ["60", "120"]
    assert all(float(row[3]) > 0 and float(row[4]) > 50 for row in rows)
