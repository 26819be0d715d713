"""Real gates on the built-in model: two seeds of equal quality must pass, and four kinds of ruined model must not.

    python reliability/gate_drill.py --pairs 24 --steps 4 --out gate_drill.json

The incumbent is trained for a few steps with seed 0; the candidates are: seed 1; the incumbent with its adapter
scaled until it babbles; with its end-of-turn token suppressed; and one trained to refuse.
Speed is left out, since it is the machine's, and held-out pairs, which so few steps do not move. Prints one JSON object; exit 1 where a gate said the wrong thing.
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
from evenhand.data.schema import PreferencePair
from evenhand.evaluation.generate import Serving
from evenhand.evaluation.probes import benign_probes
from evenhand.lifecycle.contestant import Contestant
from evenhand.lifecycle.gate import Observed, observe, observed_checks
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


def main() -> None:
    """Train, observe each model once, and hold each against the incumbent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    pairs = tickets()
    used = list(pairs[: asked.pairs])
    first = tuned(used, seed=0, steps=asked.steps, rate=3e-4)
    makers: dict[str, tuple[Callable[[], Any], bool]] = {
        "another seed": (lambda: tuned(used, seed=1, steps=asked.steps, rate=3e-4), True),
        "adapter scaled": (lambda: scaled(first, 12.0), False),
        "end of turn suppressed": (lambda: without_end(copy.deepcopy(first).merge_and_unload()), False),
        "refusals forced": (refusing, False),
    }
    incumbent = seen(contestant("incumbent", copy.deepcopy(first)))
    results, wrong = {}, 0
    for name, (make, should_pass) in makers.items():
        checks = observed_checks(POLICY, (seen(contestant(name, make())), incumbent), None)
        passed = all(check.passed for check in checks)
        wrong += passed != should_pass
        failed = {
            check.name: [check.word, check.candidate.value, check.incumbent.value]
            for check in checks
            if not check.passed
        }
        results[name] = {"passed": passed, "as_it_should": passed == should_pass, "not_passed": failed}
        print(json.dumps({name: results[name]}), file=sys.stderr, flush=True)
    text = json.dumps(results)
    print(text)
    if asked.out:
        asked.out.write_text(text + "\n")
    sys.exit(1 if wrong else 0)


def seen(model: Contestant) -> Observed:
    began = time.monotonic()
    found = observe(model, POLICY, (), lambda *_: None)
    print(f"{model.name}: observed in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    main()
