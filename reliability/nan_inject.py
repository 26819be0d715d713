"""R7: NaN and infinities in a loss, a gradient or a weight; the run stops before the optimizer moves and names the rows.

python reliability/nan_inject.py
"""

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from tiny import (
    OBJECTIVE,
    QUICK,
    WIDE,
    Hooks,
    Place,
    ended,
    fork,
    make_policy,
    read_journal,
    settings,
    some_pairs,
    tiny,
    train_policy,
    verdict,
    verify_checkpoint,
)

from evenhand.model.scores import PairScores
from evenhand.training.checkpoint import newest_checkpoint

GUARD = 3
VALUES = (float("nan"), float("inf"), float("-inf"))


def run(folder: Path, what: str, value: float, at: int, skip: bool = False) -> None:
    """Train with `value` put into the loss, a gradient or a weight of the step after `at`."""
    folder.mkdir(parents=True)
    training = settings(**QUICK | {"on_nonfinite": "skip" if skip else "stop"})
    policy = make_policy(tiny("llama", **WIDE), None, training)
    weight = next(w for name, w in policy.named_parameters() if "up_proj" in name)
    seen = {"step": 0}

    def report(record: dict[str, int], _: int) -> None:
        seen["step"] = record["step"]
        if what == "weight" and record["step"] == at:
            weight.data.view(-1)[7] = value

    @dataclass(frozen=True)
    class Poisoned:
        beta: float = OBJECTIVE.beta
        traits = OBJECTIVE.traits
        rewards = staticmethod(OBJECTIVE.rewards)

        def __call__(self, scores: PairScores, reference: PairScores | None = None) -> torch.Tensor:
            loss_B = OBJECTIVE(scores, reference)
            return loss_B * value if seen["step"] == at else loss_B

    if what == "gradient":
        weight.register_hook(lambda gradient: gradient * value if seen["step"] == at else gradient)
    train_policy(
        policy,
        (some_pairs(17, largest_group=2), Poisoned() if what == "loss" else OBJECTIVE, training),
        Place(folder),
        Hooks(report=report),
    )


def stopped_well(scratch: Path, what: str, value: float, at: int) -> bool:
    """Whether the guard's exit code, the row's name and the finite checkpoint of the step before are all there."""
    folder = scratch / f"{what}-{value}-{at}"
    code = ended(fork(lambda: run(folder, what, value, at), log := folder.with_suffix(".log")))
    said, found = log.read_text(), newest_checkpoint(folder / "checkpoints")
    # A broken weight may be caught as it is saved, or as the loss that it makes.
    steps = (at - 1, at) if what == "weight" else (at,)
    finite = found is not None and found.step in steps and all(t.isfinite().all() for t in found.tensors().values())
    named = "row " in said or what == "weight"
    if not (code == GUARD and finite and named):
        print(f"{what} {value} after step {at}: exit {code}, finite {finite}, {said}", flush=True)
    return code == GUARD and finite and named


def skipped_well(scratch: Path) -> bool:
    """With `on_nonfinite: skip` one poisoned step is left out and counted, and the run ends."""
    folder = scratch / "skipped"
    code = ended(fork(lambda: run(folder, "gradient", float("nan"), 2, skip=True), folder.with_suffix(".log")))
    records = read_journal(folder / "journal.jsonl")
    last = verify_checkpoint(folder / "checkpoints" / "step-000006")
    return code == 0 and last is not None and last.state["skipped"] == 1 and "row " in records[2]["skipped"]


def inject(scratch: Path, each: int = 10) -> tuple[int, int]:
    """(injections that stopped the run well, injections), and one that is skipped."""
    cases = [(what, VALUES[i % 3], 2 + i // 3) for what in ("loss", "gradient", "weight") for i in range(each)]
    held = [stopped_well(scratch, *case) for case in cases]
    return sum(held) + skipped_well(scratch), len(cases) + 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=10, help="injections of each of the three kinds")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        good, cases = inject(Path(scratch), asked.each)
    return verdict(
        "R7 injections", good, cases, "stopped before the optimizer moved (the last one: skipped and counted)"
    )


if __name__ == "__main__":
    sys.exit(main())
