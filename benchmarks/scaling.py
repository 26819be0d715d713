"""Does evenhand's time a token and its memory stay the same as data and micro-batches grow? Prints the ratios.

python benchmarks/scaling.py [--steps 200] [--pairs 1000 10000 100000] [--budgets 4096 8192 16384]

That many pairs, all of equal lengths, are trained on for the same number of steps, each number in a process of its own.
"""

import argparse
import json
import subprocess
import sys
import time
from typing import Any

import torch

from evenhand.model.forward import Policy
from evenhand.objectives.simpo import SimPO
from evenhand.training.goal import Goal
from evenhand.training.optim import MasterAdamW
from evenhand.training.plan import make_plan, micro_batches, steps_from
from evenhand.training.share import Share
from evenhand.training.step import train_step
from machine import Memory
from work import drawn, load, vocabulary

MODEL, LENGTHS = "tiny", (96, 64, 64)
BATCH, BUDGET = 8, 4096
Figures = dict[str, float]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--pairs", type=int, nargs="+", default=[1000, 10000, 100000])
    parser.add_argument("--budgets", type=int, nargs="+", default=[4096, 8192, 16384])
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measured(**json.loads(options.worker))))
        return
    by_pairs = [process(n, BATCH, BUDGET, options.steps) for n in options.pairs]
    print("\n".join(rows("pairs", options.pairs, by_pairs)))
    by_budget = []
    for budget in options.budgets:  # a step fills one micro-batch; the tokens in all stay the same
        batch = budget // sum(LENGTHS)
        by_budget.append(process(options.pairs[0], batch, budget, max(1, options.steps * BATCH // batch)))
    print("\n".join(["", *rows("tokens a micro-batch", options.budgets, by_budget)]))


def process(pairs: int, batch: int, budget: int, steps: int) -> Figures:
    """One measurement in a process of its own."""
    given = json.dumps({"pairs": pairs, "batch": batch, "budget": budget, "steps": steps})
    done = subprocess.run([sys.executable, __file__, "--worker", given], stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measured(pairs: int, batch: int, budget: int, steps: int) -> Figures:
    """Seconds a token over `steps` steps after one to warm up; peak bytes above the model, of pairs and of all."""
    policy: Any = Policy(load(MODEL, torch.float32, torch.device("cpu")))
    memory = Memory(policy.device)
    encoded = drawn([LENGTHS] * pairs, vocabulary(MODEL))
    held = memory.peak()
    optimizer = MasterAdamW(policy, 0.0)
    policy.train()
    tokens, began = 0, 0.0
    for number, indices in steps_from(make_plan(encoded, batch, 0, (steps + 1, None)), 0):
        if number == 1:
            tokens, began = 0, time.perf_counter()
        micro = micro_batches([encoded[i] for i in indices], budget)[0]
        tokens += train_step(policy, Goal(SimPO(2.0, 0.5)), optimizer, Share.alone(micro), (1e-5, 1.0)).tokens
    return {"seconds_per_token": (time.perf_counter() - began) / tokens, "pairs": held, "peak": memory.peak()}


def rows(what: str, sizes: list[int], runs: list[Figures]) -> list[str]:
    """A Markdown table, the first size as one."""
    lines = [f"| {what} | microseconds a token | ratio | pairs held, MiB | peak, MiB |", "|---|---|---|---|---|"]
    for size, run in zip(sizes, runs):
        ratio = run["seconds_per_token"] / runs[0]["seconds_per_token"]
        memory = f"{run['pairs'] / 2**20:.0f} | {run['peak'] / 2**20:.0f}"
        lines.append(f"| {size} | {run['seconds_per_token'] * 1e6:.2f} | {ratio:.3f} | {memory} |")
    return lines


if __name__ == "__main__":
    main()
