"""R11: a sweep whose worker is killed ends as one that was not: no trial lost, none run twice, each with the bits it has
alone.

python reliability/sweep_kill.py --kills 20
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

import tiny
from tiny import ended, ended_within, fork, kill, verdict

from evenhand.lifecycle.align import align
from evenhand.lifecycle.sweep import study
from evenhand.lifecycle.sweep.search import sweep
from evenhand.lifecycle.sweep.space import Wanted, read_sweep
from evenhand.training.checkpoint import newest_checkpoint

from small_model import listening, recipe_value, rows, save_small_model, write_recipe, write_rows

SWEEP = {"learning_rates": [1e-3, 3e-3], "betas": [2.0, 5.0], "margins": [0.1, 0.5], "prune": False}


def prepared(scratch: Path) -> Wanted:
    """A sweep of four trials or more of the small model, which saves at every step."""
    save_small_model(scratch / "model")
    made = rows(50)
    data = {
        "train": str(write_rows(scratch / "train.jsonl", made[:36])),
        "validation": str(write_rows(scratch / "held.jsonl", made[36:])),
    }
    value = recipe_value(scratch / "model", data, steps=4, checkpoint_every=1) | {"sweep": SWEEP}
    return read_sweep(write_recipe(scratch / "recipe.yaml", value))


def bits(folder: Path) -> dict[str, str]:
    """A hash of the newest checkpoint's tensors of each trial."""
    return {trial.name: one(trial) for trial in sorted((folder / "trials").iterdir())}


def one(run: Path) -> str:
    """A hash of the tensors of a run's newest checkpoint."""
    checkpoint = newest_checkpoint(run / "checkpoints")
    assert checkpoint is not None, run
    return "".join(tiny._hash(tensor.numpy().tobytes()) for _, tensor in sorted(checkpoint.tensors().items()))


def drill(kills: int, seed: int, scratch: Path) -> tuple[int, int]:
    """(trials with the same bits, done once, of the killed sweep and alone; trials)."""
    wanted, log, draw = prepared(scratch), scratch / "log", random.Random(seed)
    whole, struck = scratch / "whole", scratch / "struck"
    began = time.monotonic()
    assert ended(fork(lambda: sweep(wanted, whole, None, listening()[0]), log)) == 0, log.read_text()
    length = time.monotonic() - began
    done: dict[str, int] = {}
    count = 0
    while count < kills:
        pid = fork(lambda: sweep(wanted, struck, None, listening()[0]), log)
        code = ended_within(pid, draw.uniform(0.1, 0.4) * length)
        if code is None:
            kill(pid)
            ended(pid)
            count += 1
        elif code == 0:
            break  # it had ended before all kills were dealt: the next ones strike another sweep
        done |= {
            str(file): file.stat().st_mtime_ns for file in struck.glob("trials/*/trial.json") if str(file) not in done
        }
    assert ended(fork(lambda: sweep(wanted, struck, None, listening()[0]), log)) == 0, log.read_text()
    wanted_bits, found_bits = bits(whole), bits(struck)
    rerun = [name for name, stamp in done.items() if Path(name).stat().st_mtime_ns != stamp]
    good = sum(wanted_bits[name] == found_bits.get(name) for name in wanted_bits) - len(rerun)
    same_trials = wanted_bits.keys() == found_bits.keys()
    print(f"{count} kills; trials {len(found_bits)} of {len(wanted_bits)}; done twice: {len(rerun)}", flush=True)
    return (good if same_trials else 0), len(wanted_bits)


def alone(scratch: Path) -> bool:
    """Whether a trial's recipe gives the same bits outside of the sweep."""
    wanted, whole = prepared(scratch), scratch / "whole"
    from evenhand.lifecycle.sweep.space import trial_name

    recipe = wanted.trial(wanted.start)
    out = scratch / "alone"
    assert ended(fork(lambda: align(recipe, out, listening()[0]), scratch / "log")) == 0, (scratch / "log").read_text()
    return one(out) == one(whole / "trials" / trial_name(recipe))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=4)
    asked = parser.parse_args()
    study.NAMELESS_SECONDS = 2.0  # the window between taking a trial and naming its worker is milliseconds here
    good = trials = dealt = 0
    while dealt < asked.kills:
        with tempfile.TemporaryDirectory() as scratch:
            own, of = drill(min(5, asked.kills - dealt), asked.seed + dealt, Path(scratch))
            same = alone(Path(scratch))
        good, trials, dealt = good + own + same, trials + of + 1, dealt + 5
    return verdict(
        "R11 sweep", good, trials, f"trials (one of each sweep alone) with the same bits after {asked.kills} kills"
    )


if __name__ == "__main__":
    sys.exit(main())
