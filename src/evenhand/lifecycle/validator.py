"""What a run looks at between steps: held-out pairs scored by all ranks, and a few replies for the collapse guard."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from evenhand.evaluation.evaluate import Asking, HeldOut, Narrator, answer
from evenhand.evaluation.generate import Generation, Reply
from evenhand.evaluation.interval import Sample, family_codes, share
from evenhand.evaluation.preference import PairTraits, evaluate_pairs, wins
from evenhand.evaluation.report import Evaluated
from evenhand.model.encode import EncodedPair
from evenhand.model.forward import Policy
from evenhand.model.score import Progress, score_pairs
from evenhand.model.scores import Floats, PairScores, ScoredPairs
from evenhand.objectives.objective import Objective
from evenhand.training.guard import Vitals, collapse_of
from evenhand.training.loop import Validation
from evenhand.training.ranks import Ranks
from evenhand.training.sections import EvaluationSection, GuardSection
from evenhand.training.shard import whole


@dataclass(frozen=True, slots=True)
class Validator:
    """Validates a policy at a step; all ranks call it, and the first writes the rows and watches the replies.

    `start` is what the untrained model showed, on the first rank; `reference` the starting model's scores of the same pairs.
    """

    tokenizer: PreTrainedTokenizerBase
    held_out: HeldOut
    objective: Objective
    reference: ScoredPairs | None
    evaluation: EvaluationSection
    guard: GuardSection
    start: Vitals | None
    rows_file: Callable[[int], Path]
    narrate: Narrator
    ranks: Ranks

    def __call__(self, policy: Policy, step: int) -> Validation:
        """The loss, the figures that `evaluate` gives, and a sign of collapse if there is one."""
        what = f"validating after step {step}"
        scored = score_over_ranks(
            policy, self.held_out.encoded, self.ranks, lambda done, total: self.narrate(what, done, total)
        )
        if not np.isfinite(scored.sum_gap_B).all():
            return Validation(math.nan, {})  # which stops the run, before any row is kept
        found = self._figures(scored)
        replies = self._replies(policy)
        collapse = None
        if self.ranks.first:
            scored.write(self.rows_file(step))
            if self.start is not None:
                collapse = collapse_of(self.start, vitals_of(scored, replies.replies if replies else ()), self.guard)
        generation = {"generation": replies.json()} if replies else {}
        return Validation(
            mean_loss(self.objective, scored, self.reference), found | generation, self.ranks.from_first(collapse)
        )

    def _figures(self, scored: ScoredPairs) -> dict[str, Any]:
        """What `evaluate` gives, where the held-out rows are pairs; and, of rewards that are not log-probabilities, how
        often the chosen answer has the higher one."""
        if (scored.chosen_tokens_B * scored.rejected_tokens_B == 0).any():
            return {}
        traits = PairTraits.of(scored, self.held_out.texts)
        found = evaluate_pairs(scored, traits).json()
        if self.reference is None or not self.objective.traits.needs_reference:
            return found
        chosen_B, rejected_B = (part.numpy() for part in self.objective.rewards(*_as_tensors(scored, self.reference)))
        won = Sample(wins(chosen_B - rejected_B), family_codes(traits.family_B, len(scored)))
        return found | {"reward_accuracy": share(won).json()}

    def _replies(self, policy: Policy) -> Generation | None:
        """The first rank's replies to the first few of the evaluation's prompts."""
        prompts = watched_prompts(self.guard, self.evaluation)
        if not prompts or policy.gives_rewards:
            return None
        with whole(policy):
            asking = Asking(prompts, self.evaluation.max_new_tokens)
            found = answer(policy, self.tokenizer, self.held_out, asking) if self.ranks.first else None
            self.ranks.wait()
        return found


def watched_prompts(guard: GuardSection, evaluation: EvaluationSection) -> int:
    """How many prompts are answered at each validation."""
    return min(guard.prompts, evaluation.prompts)


def start_of(before: Evaluated, guard: GuardSection, evaluation: EvaluationSection) -> Vitals:
    """What the untrained model showed on the same pairs and prompts."""
    watched = before.generation.first(watched_prompts(guard, evaluation)) if before.generation else None
    return vitals_of(before.scored, watched.replies if watched else ())


def vitals_of(scored: ScoredPairs, replies: Sequence[Reply]) -> Vitals:
    """The signs of life in scores and replies."""
    chosen = float(scored.chosen_mean_B.mean())
    if not replies:
        return Vitals(chosen)
    return Vitals(
        chosen,
        float(np.mean([reply.repetition for reply in replies])),
        float(np.mean([reply.ended for reply in replies])),
        float(np.median([reply.tokens for reply in replies])),
    )


def score_over_ranks(policy: Policy, pairs: Sequence[EncodedPair], ranks: Ranks, report: Progress) -> ScoredPairs:
    """The scores of `pairs`, each batch by one rank; the same bits however many ranks there are."""
    part = score_pairs(policy, pairs, report=report, mine=(ranks.rank, ranks.size))

    def added(values_B: Floats) -> Floats:
        return ranks.add(torch.from_numpy(np.ascontiguousarray(values_B))).numpy()

    return replace(part, chosen_sum_B=added(part.chosen_sum_B), rejected_sum_B=added(part.rejected_sum_B))


def mean_loss(objective: Objective, scored: ScoredPairs, reference: ScoredPairs | None = None) -> float:
    """The objective's mean over scored pairs (over scored tokens, if it weighs by them), in float64."""
    weight = float(scored.chosen_tokens_B.sum()) if objective.traits.per_token else float(len(scored))
    return float(objective(*_as_tensors(scored, reference)).sum()) / weight


def _as_tensors(scored: ScoredPairs, reference: ScoredPairs | None) -> tuple[PairScores, PairScores | None]:
    return scored.tensors(), None if reference is None else reference.tensors()
