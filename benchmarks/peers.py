"""evenhand beside TRL's CPOTrainer on the same pairs, weights and machine: pairs per second and memory.

python benchmarks/peers.py --data ../shared/data/chat_pairs.json [--pairs 8] [--rounds 3] [--out peers.json]

Every contender runs in a process of its own, in turns; each process warms up on one step and measures the next. TRL is
given its best micro-batch, found first. Prints a Markdown table with medians; --out keeps every number.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

BETA, MARGIN, RANK, ALPHA, MAX_TOKENS = 2.0, 0.5, 16, 32, 2048


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="builtin:smollm2-135m")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trl-micro-batches", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        sys.stdout.write(json.dumps(work(options)) + "\n")
        return
    found = compare(options)
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")
    print(table(found))


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """TRL's best micro-batch, then all contenders in turns."""
    trials = {f"trl:{n}": measured(options, f"trl:{n}") for n in options.trl_micro_batches if options.pairs % n == 0}
    best = max(trials, key=lambda name: trials[name].get("pairs_per_second", 0.0))
    runs: dict[str, list[dict[str, Any]]] = {best: [trials[best]], "evenhand packed": [], "evenhand": []}
    for turn in range(options.rounds):
        for name, results in runs.items():
            if len(results) <= turn:
                results.append(measured(options, name))
    return {
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "system": platform.platform()},
        "pairs": options.pairs,
        "rounds": options.rounds,
        "data": Path(options.data).name,
        "trials": trials,
        "runs": runs,
    }


def measured(options: argparse.Namespace, worker: str) -> dict[str, Any]:
    """One process's numbers; one that dies, for want of memory say, gives none."""
    command = [sys.executable, __file__, "--data", options.data, "--model", options.model, "--dtype", options.dtype]
    command += ["--pairs", str(options.pairs), "--worker", worker]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    print(f"{worker}: {lines[-1] if lines else f'exit {done.returncode}'}", file=sys.stderr)
    return json.loads(lines[-1]) if lines else {"exit": done.returncode}


def table(found: dict[str, Any]) -> str:
    """Medians as Markdown, TRL as one."""
    runs = {name: [run for run in results if "pairs_per_second" in run] for name, results in found["runs"].items()}
    speed = {name: statistics.median(run["pairs_per_second"] for run in results) for name, results in runs.items()}
    base = next(name for name in speed if name.startswith("trl"))
    lines = [
        f"{found['data']}, {found['pairs']} pairs a step, {found['machine']['cores']} cores, {runs[base][0]['dtype']}, "
        f"median of {found['rounds']}",
        "",
        "| contender | pairs/s | times TRL | peak memory above the weights, MiB | mean loss |",
        "|---|---|---|---|---|",
    ]
    for name, results in runs.items():
        memory = statistics.median(run["memory_above_weights"] for run in results) / 2**20
        loss = results[0]["loss"]
        lines.append(f"| {name} | {speed[name]:.3f} | {speed[name] / speed[base]:.2f} | {memory:.0f} | {loss:.4f} |")
    return "\n".join(lines)


def work(options: argparse.Namespace) -> dict[str, Any]:
    """What a contender's process does."""
    import torch

    from evenhand.data.read import read_pairs
    from evenhand.model.encode import encode_pairs
    from evenhand.model.load import choose_device, choose_dtype, find_source, load_model, load_tokenizer
    from evenhand.model.modes import Form, encoder_for

    source = find_source(options.model)
    tokenizer = load_tokenizer(source)
    device = choose_device()
    dtype = choose_dtype(options.dtype, device)
    model = load_model(source, dtype, device)
    # The same tokens for all: those that TRL makes.
    form = Form(MAX_TOKENS, compat="trl")
    pairs = read_pairs(options.data)[1][: 2 * options.pairs]
    encoded = encode_pairs(pairs, encoder_for(tokenizer, form), form.limits, "data").pairs
    weights = resident() if device.type == "cpu" else torch.cuda.memory_allocated()
    if options.worker.startswith("trl"):
        micro = int(options.worker.partition(":")[2])
        seconds, loss = run_trl(model, tokenizer, pairs, (options.pairs, micro))
    else:
        seconds, loss = run_evenhand(model, encoded, options.pairs, options.worker != "evenhand packed")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    return {
        "pairs_per_second": options.pairs / seconds,
        "memory_above_weights": peak - weights,
        "loss": loss,
        "dtype": str(dtype).removeprefix("torch."),
        "torch": torch.__version__,
    }


def run_evenhand(model: Any, encoded: Any, pairs: int, share: bool) -> tuple[float, float]:
    """Seconds of the second step, and its loss."""
    from evenhand.model.adapter import Adapter
    from evenhand.model.pack import pack
    from evenhand.objectives.simpo import SimPO
    from evenhand.training.loop import budget_for
    from evenhand.training.optim import MasterAdamW
    from evenhand.training.plan import micro_batches
    from evenhand.training.share import Share
    from evenhand.training.step import train_step
    from evenhand.training.train import Training, make_policy

    settings = Training(batch_pairs=pairs, steps=2, learning_rate=1e-9, seed=0)
    policy = make_policy(model, Adapter(RANK, ALPHA), settings)
    policy.train()
    objective = SimPO(BETA, MARGIN)
    optimizer = MasterAdamW(policy, 0.0)
    seconds, loss = 0.0, 0.0
    for step in range(2):
        batch = encoded[step * pairs : (step + 1) * pairs]
        began = time.perf_counter()
        micro = micro_batches(batch, budget_for(settings, policy.device))[0]
        if share:
            loss = train_step(policy, objective, optimizer, Share.alone(micro), (1e-9, 1.0)).loss
        else:  # the same step with every sequence laid out whole
            loss = 0.0
            for part in micro:
                share_of_loss = objective(policy(pack(part, share=False))).sum() / pairs
                share_of_loss.backward()
                loss += float(share_of_loss)
            optimizer.gradient_norm(1.0)
            optimizer.step(1e-9)
        seconds = time.perf_counter() - began
    return seconds, loss


def run_trl(model: Any, tokenizer: Any, pairs: Any, sizes: tuple[int, int]) -> tuple[float, float]:
    """The same through CPOTrainer: loss_type simpo, no NLL term, gamma in reward units."""
    from datasets import Dataset
    from peft import LoraConfig
    from torch.utils.data import SequentialSampler
    from transformers import TrainerCallback
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    batch, micro = sizes

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.began, self.seconds, self.loss = 0.0, 0.0, 0.0

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.seconds = time.perf_counter() - self.began

        def on_log(self, *args: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
            if logs and "loss" in logs:
                self.loss = float(logs["loss"])

    class InOrder(CPOTrainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return SequentialSampler(self.train_dataset)

    keys = ("prompt", "chosen", "rejected")
    rows = [{key: value for key, value in pair.json().items() if key in keys} for pair in pairs]
    clock = Clock()
    with TemporaryDirectory() as folder:
        arguments = CPOConfig(
            output_dir=folder,
            loss_type="simpo",
            cpo_alpha=0.0,
            beta=BETA,
            simpo_gamma=BETA * MARGIN,
            max_length=MAX_TOKENS,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=batch // micro,
            max_steps=2,
            learning_rate=1e-9,
            logging_steps=1,
            report_to="none",
            save_strategy="no",
            bf16=False,
            use_cpu=model.device.type == "cpu",
            gradient_checkpointing=False,
        )
        trainer = InOrder(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"),
            callbacks=[clock],
        )
        trainer.train()
    return clock.seconds, clock.loss


def resident() -> int:
    """Bytes of this process in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
