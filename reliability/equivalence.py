"""R8, R9, R10: no cut of a step, no batch a row is in and no evaluation batch size moves a number.

python reliability/equivalence.py
"""

import argparse
import math
import sys
from collections.abc import Sequence

import numpy as np
import torch
from tiny import OBJECTIVE, WIDE, some_pairs, tiny  # first, since it finds the sources

from evenhand.evaluation.preference import evaluate_pairs
from evenhand.model.encode import EncodedPair
from evenhand.model.forward import Policy
from evenhand.model.pack import pack
from evenhand.model.score import score_pairs
from evenhand.training.optim import MasterAdamW
from evenhand.training.plan import micro_batches
from evenhand.training.share import Share
from evenhand.training.goal import Goal
from evenhand.training.step import train_step


def policy_of(dtype: torch.dtype = torch.float32) -> Policy:
    return Policy(tiny("llama", dtype, **WIDE))


def gradient_gap(pairs: list[EncodedPair], budget: int) -> float:
    """R8: the relative difference of all gradients between one micro-batch and the cut by `budget`."""
    gradients = []
    for tokens in (10**9, budget):
        policy = policy_of()
        optimizer = MasterAdamW(policy, 0.0)
        kept: list[torch.Tensor] = []
        optimizer.step = lambda _, o=optimizer, k=kept: k.extend(m.grad.clone() for m in o.masters)  # type: ignore[method-assign]
        train_step(policy, Goal(OBJECTIVE), optimizer, Share.alone(micro_batches(pairs, tokens)[0]), (1e-3, 1e9))
        gradients.append(torch.cat([gradient.reshape(-1) for gradient in kept]))
    return float((gradients[0] - gradients[1]).norm() / gradients[0].norm())


def ragged_cuts(cases: int) -> tuple[int, float]:
    """Cases within 1e-5, and the largest gap, over counts of pairs and budgets that do not divide them."""
    draw = np.random.default_rng(0)
    gaps = [
        gradient_gap(some_pairs(int(draw.integers(2, 20)), seed=i, largest_group=3), int(draw.integers(20, 200)))
        for i in range(cases)
    ]
    return sum(gap <= 1e-5 for gap in gaps), max(gaps)


def oracle(pair: EncodedPair, policy: Policy) -> float:
    """SimPO's loss of one pair in float64 numpy, from the logits that transformers itself gives for each row alone."""
    means = []
    for s in (pair.chosen, pair.rejected):
        with torch.no_grad():
            logits = policy.model(input_ids=torch.tensor(s.tokens[None].astype(np.int64))).logits[0].double().numpy()
        rows = logits[s.starts - 1 : len(s.tokens) - 1]
        largest = rows.max(1)
        normaliser = largest + np.log(np.exp(rows - largest[:, None]).sum(1))
        means.append(float((rows[np.arange(s.scored), s.tokens[s.starts :]] - normaliser).mean()))
    lead = OBJECTIVE.beta * (means[0] - means[1] - OBJECTIVE.margin)
    return math.log1p(math.exp(-abs(lead))) + max(-lead, 0.0)


def invariance(policy: Policy, pairs: Sequence[EncodedPair]) -> float:
    """R9: the largest change of a mean log-probability between a pair alone and among others."""
    together = score_pairs(policy, pairs, 10**9)
    alone = [score_pairs(policy, [pair]) for pair in pairs]
    gaps = [
        abs(float(getattr(one, side)[0]) - float(getattr(together, side)[i]))
        for i, one in enumerate(alone)
        for side in ("chosen_mean_B", "rejected_mean_B")
    ]
    return max(gaps)


def oracle_gap() -> float:
    """R9: the relative difference of the loss over 40 pairs from the float64 oracle."""
    policy, pairs = policy_of(), some_pairs(40)
    wanted = [oracle(pair, policy) for pair in pairs]
    with torch.no_grad():
        found = float(OBJECTIVE(policy(pack(pairs))).sum())
    return abs(found - math.fsum(wanted)) / math.fsum(wanted)


def evaluation_gap(sizes: tuple[int, ...] = (1, 2, 3, 7, 64)) -> float:
    """R10: the largest difference of any evaluation figure between batches of so many pairs."""
    policy, pairs = policy_of(), some_pairs(64)
    figures = []
    for size in sizes:
        parts = [score_pairs(policy, pairs[i : i + size], 10**9) for i in range(0, len(pairs), size)]
        whole = score_pairs(policy, pairs)
        for side in ("chosen_sum_B", "rejected_sum_B"):
            getattr(whole, side)[:] = np.concatenate([getattr(part, side) for part in parts])
        found = evaluate_pairs(whole)
        means = (whole.chosen_mean_B.mean(), whole.rejected_mean_B.mean())
        figures.append(
            [found.pairwise_accuracy.value, found.accuracy_by_sum.value, found.spearman_length.value, *means]
        )
    spread = np.ptp(np.array(figures, dtype=np.float64), axis=0)
    return float(spread.max())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cuts", type=int, default=40)
    cuts = parser.parse_args().cuts
    good, worst = ragged_cuts(cuts)
    print(f"R8 ragged cuts: {good} of {cuts} within 1e-5, largest {worst:.1e}", flush=True)
    pairs = some_pairs(40, largest_group=3)
    fp32, bf16 = invariance(policy_of(), pairs), invariance(policy_of(torch.bfloat16), pairs)
    loss = oracle_gap()
    print(f"R9 alone or among others: {fp32:.1e} nats in fp32, {bf16:.1e} in bf16; loss from float64 numpy: {loss:.1e}")
    batches = evaluation_gap()
    held = [good == cuts, fp32 <= 1e-5, bf16 <= 5e-3, loss <= 1e-6, batches <= 1e-6]
    print(f"R10 evaluation batches of 1, 2, 3, 7, 64: largest difference {batches:.1e}")
    print(f"R8 R9 R10 equivalence: {sum(held)} of {len(held)} goals held")
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
