"""Every method on the same pairs with the same steps: what docs/methods.md shows as one table.

evenhand demo --out harbor-demo                                   (makes the data)
python benchmarks/methods.py harbor-demo/data --out methods       (again: goes on)

The reward model is trained first and judges the replies of all others against the replies of their start. A run is a process of its own, and its time
is what that process computed, so that other work on the machine weighs little.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from evenhand.evaluation.comparison import MEAN
from evenhand.evaluation.judge import Judge
from evenhand.figure import figure
from evenhand.files import write_json
from evenhand.lifecycle.compared import compare_entrants
from evenhand.lifecycle.entrant import Entrant, entrants
from evenhand.lifecycle.judging import judged_by, open_judge

JUDGE = "reward"
PAIRS = {"batch_pairs": 16, "learning_rate": 6.0e-4, "schedule": "cosine", "warmup": 0.1}
DRAWN = {"batch_pairs": 8, "learning_rate": 1.0e-3, "schedule": "constant", "warmup": 0.1}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "reward": {"name": "reward", "center": 0.01},
    "simpo": {"name": "simpo", "beta": 2.0, "margin": 0.5},
    "dpo": {"name": "dpo", "beta": 0.1},
    "dpo_length_normalised": {"name": "dpo", "beta": 5.0, "length_normalised": True},
    "ipo": {"name": "ipo", "beta": 0.1},
    "kto": {"name": "kto", "beta": 0.1},
    "orpo": {"name": "orpo", "beta": 0.1},
    "cpo_simpo": {"name": "simpo", "beta": 2.0, "margin": 0.5, "sft_weight": 1.0},
    "sft": {"name": "sft"},
    "ppo": {"name": "ppo", "replies": 4, "max_new_tokens": 40, "kl": 0.05, "passes": 2, "minibatches": 2},
    "grpo": {"name": "grpo", "replies": 4, "max_new_tokens": 40, "kl": 0.05},
}
ONLINE = {"ppo", "grpo"}


@dataclass(frozen=True, slots=True)
class Bench:
    """The curated data, where runs go, and how long they are."""

    data: Path
    out: Path
    steps: int
    drawn_steps: int
    prompts: int

    def recipe(self, name: str) -> dict[str, Any]:
        """The method's recipe; all but the objective is the same for all that learn from pairs."""
        online = name in ONLINE
        training = (DRAWN if online else PAIRS) | {"steps": self.drawn_steps if online else self.steps, "seed": 0}
        rewards = {"rewards": [str(self.run(JUDGE))]} if online else {}
        return {
            "name": name,
            "model": {"source": "builtin:smollm2-135m", "adapter": {"rank": 16, "alpha": 32}},
            "data": {"source": str(self.data), "max_tokens": 512},
            "objective": OBJECTIVES[name] | rewards,
            "training": training | {"token_budget": 2048, "checkpoint_every": self.steps // 2},
            "evaluation": {"prompts": 0 if name == JUDGE else self.prompts, "max_new_tokens": 80},
        }

    def run(self, name: str) -> Path:
        """The method's run folder."""
        return self.out / name

    def spent(self, name: str) -> Path:
        """What the processes of the run took."""
        return self.out / f"{name}.spent.json"


def train(bench: Bench, name: str) -> None:
    """Train the method in a process of its own unless it is done, and keep what the process took."""
    if (bench.run(name) / "done.json").exists():
        return
    file = bench.out / f"{name}.yaml"
    file.write_text(yaml.safe_dump(bench.recipe(name), sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "evenhand", "train", str(file), "--out", str(bench.run(name))]
    child = subprocess.Popen(command)
    _, status, usage = os.wait4(child.pid, 0)
    before = json.loads(bench.spent(name).read_text()) if bench.spent(name).exists() else {"seconds": 0.0, "peak": 0}
    spent = before["seconds"] + usage.ru_utime + usage.ru_stime
    write_json(bench.spent(name), {"seconds": spent, "peak": max(before["peak"], usage.ru_maxrss * 1024)})
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{name} did not end well; see above, and start again to go on")


def row(bench: Bench, name: str, judge: Judge) -> str:
    """One line of the table."""
    run = entrants([str(bench.run(name))], None, say, narrate, fewest=1)[0].with_drift(say, narrate)
    start = run.at_start()
    judged = judged_by(judge, start, run, narrate)
    return f"| {name} | {' | '.join(cells(start, run, judged))} | {cost(bench, name)} |"


def cells(start: Entrant, run: Entrant, judged: dict[str, Any]) -> Sequence[str]:
    """Accuracy and its change, win rate, lengths, replies that end, drift."""
    value = compare_entrants([start, run]).value
    replies, drift, wins = value["replies"]["differences"], run.drift, judged["win_rate"]
    return (
        figure(value["accuracy"]["candidate"][MEAN]).words(),
        figure(value["readings"][MEAN]["difference"]).words(),
        figure(wins).words() if wins else f"withheld: {judged['withheld']}",
        figure(replies["tokens"]).words(digits=1),
        figure(replies["ended"]).words(),
        figure(drift["on_new_replies"]).words() if drift else "not measured",
    )


def cost(bench: Bench, name: str) -> str:
    """Minutes of processor and peak memory of the run's process."""
    spent = json.loads(bench.spent(name).read_text(encoding="utf-8"))
    return f"{spent['seconds'] / 60:.1f} | {spent['peak'] / 2**30:.1f}"


def say(text: str) -> None:
    print(text, file=sys.stderr)


def narrate(what: str, done: int, of: int) -> None:
    if done == of:
        print(f"{what}: {of}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="curated data, as evenhand demo makes it")
    parser.add_argument("--out", type=Path, default=Path("methods"))
    parser.add_argument("--only", nargs="+", choices=[name for name in OBJECTIVES if name != JUDGE], default=None)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--drawn-steps", type=int, default=8, help="steps of methods that draw their answers")
    parser.add_argument("--prompts", type=int, default=64)
    asked = parser.parse_args()
    bench = Bench(asked.data.resolve(), asked.out.resolve(), asked.steps, asked.drawn_steps, asked.prompts)
    bench.out.mkdir(parents=True, exist_ok=True)
    names = asked.only or [name for name in OBJECTIVES if name != JUDGE]
    for name in (JUDGE, *names):
        train(bench, name)
    judge = open_judge(str(bench.run(JUDGE)), "", bench.out / "judge.jsonl", say)
    print(
        "| method | pairwise accuracy | change | wins over the start | reply tokens, change | replies that end, change | drift | CPU min | GiB |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name in names:
        print(row(bench, name, judge), flush=True)


if __name__ == "__main__":
    main()
