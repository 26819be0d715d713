"""evenhand beside its peers' own code on the same pairs, weights and machine: pairs per second, memory, use of the peak.

python benchmarks/peers.py [--work chat|short|dialogue|ranked|scoring] [--ideas] [--out peers.json]
python benchmarks/peers.py --device cuda --model 1.2b

Every contender runs in a process of its own, in turns; each process warms up on one step and measures those after it.
TRL is given its best precision and micro-batch, found first. Prints a Markdown table with medians; --out keeps every
number, and a second start goes on where the first one ended.
"""

import argparse
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from contenders import Setting, run
from evenhand.files import write_json
from evenhand.training.memory import is_out_of_memory
from ideas import IDEAS
from machine import Memory, describe, peak_flops
from table import table
from work import BUILTIN, KINDS, SHAPES, data_folder, load, useful_flops, work

Turn = dict[str, Any]
PASSES = {"scoring": 1, "lora": 2, "full": 3}


def main() -> None:
    """Measure and print."""
    options = parsed()
    if options.worker:
        print(json.dumps(turn(options, json.loads(options.worker))))
        return
    found = compare(options)
    print(table(found))


def parsed() -> argparse.Namespace:
    """The command line, with what depends on device and model filled in."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=KINDS, default="chat")
    parser.add_argument("--data", type=Path, default=data_folder(), help="folder of real preference data")
    parser.add_argument("--model", default=BUILTIN, help=f"a folder, {BUILTIN}, or a shape: {', '.join(SHAPES)}")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--train", choices=["lora", "full"], help="left out: full for 1.2b, else lora")
    parser.add_argument("--pairs", type=int, help="pairs a step; left out: 4, on ranked work 6, on CUDA 24")
    parser.add_argument("--steps", type=int, help="measured steps of a turn; left out: 1, on CUDA 3")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--micro-batches", type=int, nargs="+", help="pairs at once that padded contenders try")
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], help="precisions that TRL tries")
    parser.add_argument("--budget", type=int, help="evenhand's tokens per micro-batch; left out: its own choice")
    parser.add_argument("--seconds", type=float, help="start no turn after so many; left out: 480 on CUDA, else none")
    parser.add_argument("--ideas", action="store_true", help="evenhand with one idea taken away at a time")
    parser.add_argument("--out", type=Path, help="JSON of all turns; those in it are not run again")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    cuda = options.device == "cuda"
    if cuda and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device here")
    options.train = options.train or ("full" if options.model == "1.2b" else "lora")
    options.pairs = options.pairs or (24 if cuda else 6 if options.work == "ranked" else 4)
    options.steps = options.steps or (3 if cuda else 1)
    options.micro_batches = options.micro_batches or ([1, 2, 4, 8] if cuda else [1, 2, 4])
    options.dtypes = options.dtypes or (["bfloat16"] if cuda else ["float32", "bfloat16"])
    options.seconds = options.seconds or (480.0 if cuda else float("inf"))
    if options.work == "ranked" and options.pairs % 6:
        parser.error(f"--pairs {options.pairs}: an item of ranked work has 6 pairs; give a multiple of 6")
    return options


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """All turns, alternating; TRL's and Liger's trials first."""
    kept = Kept(options)
    choice = {"dtype": options.dtypes[0], "micro": 1}
    names: list[str]
    if options.ideas:
        names = list(IDEAS)
    elif options.work == "scoring":
        names = ["full", "LoRA", "scoring"]
    else:
        names = ["TRL", "Liger", "without sharing", "evenhand"]
        names[2:2] = ["each pair alone"] if options.work == "ranked" else []
    chosen = dict.fromkeys(names, choice)
    if "TRL" in names:
        chosen["TRL"] = best(kept, "TRL", [{"dtype": d, "micro": 1} for d in options.dtypes])
        dtype = chosen["TRL"]["dtype"]
        sizes = [{"dtype": dtype, "micro": n} for n in options.micro_batches if options.pairs % n == 0]
        chosen = {name: {"dtype": dtype, "micro": 1} for name in names}
        chosen |= {name: best(kept, name, sizes) for name in ("TRL", "Liger")}
    for number in range(options.rounds):
        for name in names:
            kept.measured(name, chosen[name], number)
    return kept.found | {"chosen": chosen}


def best(kept: "Kept", name: str, settings: list[Turn]) -> Turn:
    """The fastest setting; where none has the memory, the fastest that recomputes activations."""
    for more in ({}, {"checkpoint": True}):
        tried = [setting | more for setting in settings]
        speeds = [kept.measured(name, setting, 0).get("pairs_per_second", 0.0) for setting in tried]
        if max(speeds):
            return tried[speeds.index(max(speeds))]
        if not all(kept.measured(name, setting, 0).get("out_of_memory") for setting in tried):
            break
    return settings[0]


class Kept:
    """The turns so far, in the file that `--out` names."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.began = options, time.monotonic()
        names = ("work", "model", "device", "train", "pairs", "steps", "budget")
        same = {name: getattr(options, name) for name in names}
        self.found: dict[str, Any] = {"setting": same, "machine": describe(torch.device(options.device)), "turns": []}
        if options.out and options.out.exists():
            before = json.loads(options.out.read_text())
            if before["setting"] != same or before["machine"]["versions"] != self.found["machine"]["versions"]:
                raise SystemExit(f"{options.out} holds turns of another setting or version; name another file.")
            self.found = before

    def measured(self, name: str, choice: Turn, number: int) -> Turn:
        """This turn's numbers: the kept ones, else those of a new process."""
        label = {"name": name, "choice": choice, "round": number}
        for done in self.found["turns"]:
            if {key: done[key] for key in label} == label:
                return dict(done)
        if time.monotonic() - self.began > self.options.seconds:
            return label | {"error": "not run: out of time"}
        found = label | self.process(name, choice)
        self.found["turns"].append(found)
        if self.options.out:
            write_json(self.options.out, self.found)
        return found

    def process(self, name: str, choice: Turn) -> Turn:
        """Run one contender; a process that dies is recorded by what it said last."""
        given = self.options
        command = [sys.executable, __file__, "--worker", json.dumps({"name": name} | choice)]
        for option in ("work", "data", "model", "device", "train", "pairs", "steps", "budget"):
            if getattr(given, option) is not None:
                command += [f"--{option}", str(getattr(given, option))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        print(f"{name} {choice}: {lines[-1] if lines else f'exit {done.returncode}'}", file=sys.stderr)
        if lines:
            return dict(json.loads(lines[-1]))
        said = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        # A process killed by the kernel for want of memory says nothing and ends with signal 9.
        return {"error": said, "out_of_memory": done.returncode == -9}


def import_peer(name: str) -> None:
    """Load a peer's code before memory is counted, so that it is not charged to its steps."""
    for module in {"TRL": ("datasets", "trl.experimental.cpo"), "Liger": ("liger_kernel.chunked_loss",)}.get(name, ()):
        importlib.import_module(module)


def turn(options: argparse.Namespace, choice: Turn) -> Turn:
    """What a contender's process does."""
    device, dtype = torch.device(options.device), getattr(torch, choice["dtype"])
    name = choice["name"]
    steps = work(options.work, options.model, (options.pairs, options.steps), options.data)
    model = load(options.model, dtype, device)
    passes = PASSES[{"scoring": "scoring", "LoRA": "lora", "full": "full"}.get(name, options.train)]
    flops = sum(useful_flops(model, pairs, passes) for pairs in steps.steps[1:])
    setting = Setting(options.train, choice["micro"], options.budget, choice.get("checkpoint", False))
    try:
        import_peer(name)
        memory = Memory(device)
        seconds, loss = run(name, model, steps, setting)
    except ImportError as error:
        return {"error": f"cannot run here: {error}"}
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return {"error": str(error).splitlines()[0], "out_of_memory": True}
    above = memory.peak()
    return {
        "pairs_per_second": options.pairs * options.steps / sum(seconds),
        "seconds": seconds,
        "memory_above_weights": above,
        "loss": loss,
        "useful_flops": flops / sum(seconds),
        "peak_flops": peak_flops(dtype, device),
        "dtype": choice["dtype"],
        "mean_tokens": steps.means,
    }


if __name__ == "__main__":
    main()
