"""R13: a run is started again with one thing changed; each is refused by its name, or goes on when that is allowed.

python reliability/changed.py
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tiny import OBJECTIVE, QUICK, WIDE, Adapter, Hooks, Place, ended, fork, make_policy, settings, some_pairs, tiny
from tiny import train_policy, verdict

from evenhand.objectives.simpo import SimPO

Change = Callable[[dict[str, Any]], object]
# What a whole run adds to the identity of the loop: see `lifecycle/align.py`, and its own tests.
INPUTS = {"data": "1", "tokenizer": "1", "template": "1", "model": "1", "data.max_tokens": "2048"}

CHANGES: dict[str, Change] = {
    "training.learning_rate": lambda r: r["settings"].update(learning_rate=2e-3),
    "training.batch_pairs": lambda r: r["settings"].update(batch_pairs=6),
    "training.steps": lambda r: r["settings"].update(steps=7),
    "training.seed": lambda r: r["settings"].update(seed=4),
    "training.schedule": lambda r: r["settings"].update(schedule="linear"),
    "training.warmup": lambda r: r["settings"].update(warmup=0.3),
    "training.weight_decay": lambda r: r["settings"].update(weight_decay=0.1),
    "training.max_gradient_norm": lambda r: r["settings"].update(max_gradient_norm=2.0),
    "objective.beta": lambda r: r.update(objective=SimPO(3.0, 0.5)),
    "objective.margin": lambda r: r.update(objective=SimPO(2.0, 0.6)),
    "objective.sft_weight": lambda r: r.update(objective=SimPO(2.0, 0.5, sft_weight=0.1)),
    "tokens": lambda r: r["pairs"].reverse(),
    "threads": lambda r: r.update(threads=2),
    **{name: lambda r, n=name: r["inputs"].update({n: "2"}) for name in INPUTS},
}
# No checkpoint fits another set of weights, so nothing can allow it.
NEVER = {"weights": lambda r: r.update(adapter=Adapter(4, 8.0))}


def start(folder: Path, change: Change | None, allowed: tuple[str, ...] = (), stop: int | None = None) -> None:
    run: dict[str, Any] = {
        "settings": dict(QUICK),
        "objective": OBJECTIVE,
        "pairs": some_pairs(17),
        "inputs": dict(INPUTS),
        "threads": 1,
        "adapter": None,
    }
    if change:
        change(run)
    os.environ["OMP_NUM_THREADS"] = str(run["threads"])  # said by the user, so not pinned
    torch.set_num_threads(run["threads"])
    training = settings(**run["settings"])
    folder.mkdir(parents=True, exist_ok=True)
    policy = make_policy(tiny("llama", **WIDE), run["adapter"], training)
    place = Place(folder, identity=run["inputs"], allowed=allowed)
    hooks = Hooks(report=lambda record, _: os._exit(99) if record["step"] == stop else None)
    train_policy(policy, (run["pairs"], run["objective"], training), place, hooks)


def drill(scratch: Path, every: int = 1) -> tuple[int, int]:
    """(changes that were refused by name and then went on when allowed, changes)."""
    held, changes = 0, list((CHANGES | NEVER).items())[::-every]
    for name, change in changes:
        folder, log = scratch / name, scratch / f"{name}.log"
        assert ended(fork(lambda: start(folder, None, stop=4), log)) == 99, log.read_text()
        log.unlink()
        code = ended(fork(lambda: start(folder, change), log))
        refused = code == 2 and f"another {name}" in log.read_text()
        code = ended(fork(lambda: start(folder, change, allowed=(name,)), log))
        ok = refused and code == (2 if name in NEVER else 0)
        held += ok
        if not ok:
            print(f"{name}: refused {refused}, then {code}: {log.read_text()}", flush=True)
    return held, len(changes)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="only every so manieth change")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        good, changes = drill(Path(scratch), asked.every)
    return verdict(
        "R13 changed starts", good, changes, "changes refused by name, and allowed by name where that can be"
    )


if __name__ == "__main__":
    sys.exit(main())
