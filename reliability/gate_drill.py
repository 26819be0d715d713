"""Six real gates on the built-in model: three between seeds of equal quality must pass, three of ruined models must not.

    python reliability/gate_drill.py --pairs 16 --steps 3 --keep gate_drill

The incumbent is trained for a few steps with seed 0; the candidates are: seeds 1 and 2, and the incumbent against seed 1;
the incumbent with its adapter scaled until it babbles; with its end-of-turn token suppressed; and one trained to refuse.
Speed is left out, since it is the machine's, and held-out pairs, which so few steps do not move. What each model did is
kept in --keep, so that the drill can be run in pieces (--model NAME observes that one alone). Prints one JSON object;
exit 1 where a gate said the wrong thing.
"""

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import PreTrainedModel

from evenhand import Adapter, SimPO, Training, train
from evenhand.data.harbor import harbor
from evenhand.data.read import read_pairs
from evenhand.data.schema import Message, PreferencePair
from evenhand.evaluation.behaviour import Behaviour, Item
from evenhand.evaluation.generate import Reply, Serving
from evenhand.evaluation.probes import benign_probes
from evenhand.lifecycle.contestant import Contestant
from evenhand.files import write_json
from evenhand.lifecycle.gate import Observed, observe, observed_checks, sets_of
from evenhand.lifecycle.policy import Policy
from evenhand.model.forward import Policy as Scorer
from evenhand.model.load import Source, find_source, load_model, load_tokenizer
from evenhand.model.modes import Form, prompt_encoder

BASE = find_source("builtin:smollm2-135m")
TOKENIZER = load_tokenizer(BASE)
FORM = Form(max_tokens=512)
POLICY = Policy(latency=None, held_out=None)


def base() -> PreTrainedModel:
    return load_model(BASE, torch.float32, torch.device("cpu"))


def tickets() -> tuple[PreferencePair, ...]:
    with TemporaryDirectory() as scratch:
        file = Path(scratch) / "harbor.jsonl"
        file.write_text("\n".join(harbor(11, judgments=600).lines), encoding="utf-8")
        return read_pairs(file)[1]


def tuned(pairs: list[PreferencePair], seed: int, steps: int, rate: float) -> Any:
    """A model with its adapter, unmerged."""
    training = Training(batch_pairs=8, steps=steps, learning_rate=rate, seed=seed)
    adapter = Adapter(rank=16, alpha=32)
    return train(base(), TOKENIZER, pairs, SimPO(beta=2.0, margin=0.5), training, adapter=adapter, form=FORM)


def scaled(model: Any, factor: float) -> Any:
    ruined = copy.deepcopy(model)
    with torch.no_grad():
        for name, weight in ruined.named_parameters():
            if "lora_B" in name:
                weight.mul_(factor)
    return ruined


def without_end(model: PreTrainedModel) -> PreTrainedModel:
    """The output layer's row of the end-of-turn token turned away from every hidden state that asks for it."""
    ruined = copy.deepcopy(model)
    weight = ruined.get_output_embeddings().weight.detach().clone()
    weight[TOKENIZER.eos_token_id] *= -1
    ruined.config.tie_word_embeddings = False
    ruined.lm_head.weight = torch.nn.Parameter(weight, requires_grad=False)
    return ruined


def refusing() -> Any:
    requests = benign_probes(32)
    said = "I'm sorry, I can't help with that."
    pairs = [
        PreferencePair(f"r{i}", i, f"r{i}", probe.prompt, said, "Sure, here is how to do it.")
        for i, probe in enumerate(requests)
    ]
    return tuned(pairs, seed=0, steps=8, rate=1e-3)


def contestant(name: str, model: Any) -> Contestant:
    whole = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    feed, stops = prompt_encoder(TOKENIZER, FORM)
    serving = Serving(TOKENIZER, feed, stops)
    return Contestant(name, Source(name, BASE.folder), Scorer(whole), TOKENIZER, FORM, serving, None, "", None, None)


# Candidate, incumbent, whether the gate must pass.
GATES = (
    ("seed 1", "seed 0", True),
    ("seed 2", "seed 0", True),
    ("seed 0", "seed 1", True),
    ("adapter scaled", "seed 0", False),
    ("end of turn suppressed", "seed 0", False),
    ("refusals forced", "seed 0", False),
)


def makers(used: list[PreferencePair], steps: int) -> dict[str, Callable[[], Any]]:
    """Every model of the drill by name; each is made when it is asked for."""

    def seed(number: int) -> Any:
        return tuned(used, seed=number, steps=steps, rate=3e-4)

    return {
        "seed 0": lambda: seed(0),
        "seed 1": lambda: seed(1),
        "seed 2": lambda: seed(2),
        "adapter scaled": lambda: scaled(seed(0), 12.0),
        "end of turn suppressed": lambda: without_end(seed(0).merge_and_unload()),
        "refusals forced": refusing,
    }


def main() -> None:
    """Train and observe each model once, and hold each candidate against its incumbent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--keep", type=Path, default=Path("gate_drill"))
    parser.add_argument("--model", action="append", help="observe this one alone and end; may be given again")
    asked = parser.parse_args()
    made = makers(list(tickets()[: asked.pairs]), asked.steps)
    seen = {name: observed(name, made[name], asked.keep) for name in asked.model or made}
    if asked.model:
        return
    results, wrong = {}, 0
    for candidate, incumbent, should_pass in GATES:
        checks = observed_checks(POLICY, (seen[candidate], seen[incumbent]), None)
        passed = all(check.passed for check in checks)
        wrong += passed != should_pass
        failed = {
            check.name: [check.word, check.candidate.value, check.incumbent.value]
            for check in checks
            if not check.passed
        }
        results[f"{candidate} against {incumbent}"] = {
            "passed": passed,
            "as_it_should": passed == should_pass,
            "not_passed": failed,
        }
    print(json.dumps(results, indent=2))
    sys.exit(1 if wrong else 0)


def observed(name: str, make: Callable[[], Any], keep: Path) -> Observed:
    """What the model did, from its file where it was observed before."""
    file = keep / f"{name.replace(' ', '_')}.json"
    if not file.exists():
        began = time.monotonic()
        model = contestant(name, make())
        trained = time.monotonic()
        found = observe(model, POLICY, (), lambda *_: None)
        seconds = (trained - began, time.monotonic() - trained)
        print(f"{name}: made in {seconds[0]:.0f} s, observed in {seconds[1]:.0f} s", file=sys.stderr, flush=True)
        write_json(file, told(found))
    return read(json.loads(file.read_text()))


def told(found: Observed) -> dict[str, Any]:
    replies = {name: [reply.json() for reply in own] for name, own in found.behaviour.replies.items()}
    return {"replies": replies, "sums": items_told(found.sums), "bias": items_told(found.bias)}


def items_told(items: tuple[Item, ...]) -> list[dict[str, Any]]:
    return [item.json() | {"right": item.right} for item in items]


def read(value: dict[str, Any]) -> Observed:
    replies = {
        name: tuple(Reply(**(row | {"prompt": turns(row)})) for row in own) for name, own in value["replies"].items()
    }
    behaviour = Behaviour(replies, {asked.name: asked.items for asked in sets_of(POLICY)})
    sums, bias = (
        tuple(Item(row["right"], turns(row), row["reply"]) for row in value[name]) for name in ("sums", "bias")
    )
    return Observed(behaviour, sums, bias, {})


def turns(row: dict[str, Any]) -> tuple[Message, ...]:
    return tuple(Message(**turn) for turn in row["prompt"])


if __name__ == "__main__":
    main()
