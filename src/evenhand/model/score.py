"""Scores of many pairs without a gradient, over forests of a token budget, in the order given."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch

from evenhand.model.encode import EncodedPair
from evenhand.model.forward import Policy, require_positions
from evenhand.model.pack import forest_tokens, pack
from evenhand.model.scores import ScoredPairs

# (pairs done, pairs in all)
Progress = Callable[[int, int], None]


def score_pairs(
    policy: Policy,
    pairs: Sequence[EncodedPair],
    token_budget: int = 4096,
    report: Progress | None = None,
    mine: tuple[int, int] = (0, 1),
) -> ScoredPairs:
    """Summed log-probabilities of every pair's answers, rows in the order of `pairs`.

    Pairs are computed in the order of their tokens, so that those with a common beginning share it. `mine` is a rank and
    the number of ranks, of which each computes some batches, as many as any other, and leaves 0 for the rest.
    """
    require_positions(policy, pairs)
    order = sorted(range(len(pairs)), key=lambda i: pairs[i].chosen.tokens.astype(">u4").tobytes())
    sums = np.zeros((2, len(pairs)))
    training = policy.training
    policy.eval()
    try:
        with torch.no_grad():  # not inference_mode: gathered shards outlive a forward
            done, (rank, ranks) = 0, mine
            batches = list(_batches(order, pairs, token_budget))
            for start in range(0, len(batches), ranks):
                own = start + rank
                indices = batches[own] if own < len(batches) else []
                scores = policy(pack([pairs[i] for i in indices or batches[0]]))
                if not indices:
                    continue  # computed only to keep step
                sums[0, indices] = scores.chosen_sum_B.cpu().numpy()
                sums[1, indices] = scores.rejected_sum_B.cpu().numpy()
                done = sum(map(len, batches[: start + ranks]))
                if report:
                    report(done, len(pairs))
    finally:
        policy.train(training)
    return ScoredPairs.of(pairs, sums[0], sums[1], policy.gives_rewards)


def _batches(order: list[int], pairs: Sequence[EncodedPair], token_budget: int) -> Iterable[list[int]]:
    current: list[int] = []
    tokens = 0
    for i in order:
        own = forest_tokens([pairs[i]])
        if current and tokens + own > token_budget:
            yield current
            current, tokens = [], 0
        current.append(i)
        tokens += own
    if current:
        yield current
