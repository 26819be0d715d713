"""What the forest gains where a person has corrected a reply, so that both answers begin alike: tokens and time.

python benchmarks/edits.py COLLECTED.jsonl --pairs 12 --rounds 3      (judgments of `evenhand collect`)

Three ways in one run, by turns: every sequence whole, the prompt shared only, all of the common beginning shared. In the
second the rejected answer's first token is another one, so that all lengths stay as they are.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import torch

from evenhand.data.read import read_pairs
from evenhand.model.encode import EncodedPair, EncodedSide, encode_pairs
from evenhand.model.forward import Policy
from evenhand.model.load import find_source, load_model, load_tokenizer
from evenhand.model.modes import Form, encoder_for
from evenhand.model.pack import PackedBatch, pack
from evenhand.objectives.simpo import SimPO
from machine import describe
from work import BUILTIN

WAYS = ("whole", "prompt shared", "beginning shared")


@dataclass(frozen=True, slots=True)
class Shared:
    """Mean tokens of a pair: prompt, both answers, and the common beginning of the answers."""

    prompt: float
    chosen: float
    rejected: float
    common: float


def shared_of(pairs: Sequence[EncodedPair]) -> Shared:
    common = [beginning(own) for own in pairs]
    sizes = [(own.chosen.starts, own.chosen.scored, own.rejected.scored) for own in pairs]
    return Shared(*np.mean(sizes, axis=0).tolist(), float(np.mean(common)))


def beginning(pair: EncodedPair) -> int:
    """How many tokens both answers begin with."""
    one, other = pair.chosen.tokens[pair.chosen.starts :], pair.rejected.tokens[pair.rejected.starts :]
    shorter = min(len(one), len(other))
    different = np.flatnonzero(one[:shorter] != other[:shorter])
    return int(different[0]) if len(different) else shorter


def apart(pair: EncodedPair) -> EncodedPair:
    """The same pair but for the rejected answer's first token, which is none of the chosen one's."""
    tokens = pair.rejected.tokens.copy()
    tokens[pair.rejected.starts] = (pair.chosen.tokens[pair.chosen.starts] + 1) % 1000 + 1000
    return replace(pair, rejected=EncodedSide(tokens, pair.rejected.starts))


def batch_of(pairs: Sequence[EncodedPair], way: str) -> PackedBatch:
    if way == "prompt shared":
        return pack([apart(own) for own in pairs])
    return pack(pairs, share=way == "beginning shared")


def step_seconds(policy: Policy, pairs: Sequence[EncodedPair], way: str) -> float:
    """Forward and backward of each pair by itself, as with one micro-batch a pair."""
    objective = SimPO(beta=2.0, margin=0.5)
    batches = [batch_of([own], way) for own in pairs]
    policy.zero_grad(set_to_none=True)
    began = time.perf_counter()
    for batch in batches:
        objective(policy(batch)).sum().backward()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("collected")
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default=BUILTIN)
    asked = parser.parse_args()
    source = find_source(asked.model)
    form = Form(2048, compat="trl")
    encoder = encoder_for(load_tokenizer(source), form)
    encoded = encode_pairs(read_pairs(asked.collected)[1], encoder, form.limits, asked.collected).pairs
    told = shared_of(encoded)
    tokens = {way: sum(batch_of([own], way).tokens for own in encoded) for way in WAYS}
    print(
        f"{len(encoded)} pairs: prompt {told.prompt:.0f}, chosen {told.chosen:.0f}, rejected {told.rejected:.0f} tokens, of "
        f"which the answers share their first {told.common:.1f} ({told.common / told.rejected:.0%} of the rejected one)"
    )
    print("tokens computed:", ", ".join(f"{way} {count}" for way, count in tokens.items()), flush=True)
    policy = Policy(load_model(source, torch.float32, torch.device("cpu")))
    some = encoded[:: max(1, len(encoded) // asked.pairs)][: asked.pairs]
    step_seconds(policy, some[:2], WAYS[0])
    seconds = {way: [] for way in WAYS}
    for _ in range(asked.rounds):
        for way in WAYS:
            seconds[way].append(step_seconds(policy, some, way))
    for way in WAYS:
        own = median(seconds[way])
        computed = sum(batch_of([one], way).tokens for one in some)
        ratio = median(a / b for a, b in zip(seconds[WAYS[0]], seconds[way], strict=True))
        print(
            f"{way}: {own:.2f} s for {len(some)} pairs, {computed} tokens; {ratio:.2f} times as fast as whole",
            flush=True,
        )
    print(describe(torch.device("cpu")))


if __name__ == "__main__":
    main()
