"""What `evenhand evaluate` finds beside the scores: calibration, paraphrases, overfitting, drift and speed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evenhand.data.columns import column_values
from evenhand.data.schema import PreferencePair
from evenhand.evaluation.calibration import Calibration, calibration
from evenhand.evaluation.difference import families_of
from evenhand.evaluation.drift import Along, Drift
from evenhand.evaluation.evaluate import Asking, HeldOut, Narrator, answer
from evenhand.evaluation.generate import Generation
from evenhand.evaluation.interval import Floats
from evenhand.evaluation.judge import Judge
from evenhand.evaluation.overfit import Side, TrainGap, train_gap
from evenhand.evaluation.paraphrase import Paraphrased, paraphrased
from evenhand.evaluation.preference import PairTraits
from evenhand.evaluation.report import Evaluated
from evenhand.evaluation.speed import Answering, answering_speed
from evenhand.evaluation.winrate import evenly
from evenhand.lifecycle.appraisal import Appraised, Asked, Say, appraise, dtype_name, given_pairs, recipe_of
from evenhand.lifecycle.judging import judged_against_chosen
from evenhand.lifecycle.reading import REWARDS, Reading, reading_of
from evenhand.lifecycle.start import Start, moved_from
from evenhand.model.encode import encode_pairs
from evenhand.model.forward import Policy
from evenhand.model.load import choose_device, choose_dtype, find_source, load_model
from evenhand.model.modes import encoder_for, prompt_encoder
from evenhand.model.score import score_pairs
from evenhand.model.scores import ScoredPairs

Pairs = tuple[PreferencePair, ...]

_MOST_TRAINING_PAIRS = 1000


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is looked at: how many prompts are answered, columns to slice by, training data, the model at its start, and
    who judges its replies beside the chosen answers.

    Where the model is an adapter on its base, the base is the start and needs no second model in memory.
    """

    prompts: int = 0
    columns: tuple[str, ...] = ()
    train: str | None = None
    start: str | None = None
    judge: Judge | None = None


@dataclass(frozen=True, slots=True)
class Examined:
    """All that was found of one model on held-out pairs; None for what was not asked for or has no start to measure from."""

    evaluated: Evaluated
    calibration: Calibration
    paraphrases: Paraphrased
    train_gap: TrainGap | None
    drift: Drift | None
    speed: Answering | None
    judged: dict[str, Any] | None
    data: dict[str, Any]

    def json(self) -> dict[str, Any]:
        """What `evenhand evaluate --json` prints."""
        return self.evaluated.json() | {
            "calibration": self.calibration.json(),
            "paraphrases": self.paraphrases.json(),
            "train_gap": self.train_gap.json() if self.train_gap else None,
            "drift": self.drift.json() if self.drift else None,
            "speed": self.speed.json() if self.speed else None,
            "judged": self.judged,
            "data": self.data,
        }


def examine(asked: Asked, wanted: Wanted, say: Say, narrate: Narrator) -> Examined:
    """Evaluate a model on held-out pairs, and look at what scores alone do not show."""
    training = _training_pairs(wanted, say)  # read first, so that a wrong path is known before the model is scored
    found = appraise(asked, say, narrate)
    start = Start(found.policy, _second_model(asked, wanted, say))
    recipe = recipe_of(find_source(asked.model))
    reading = REWARDS if found.policy.gives_rewards else reading_of(recipe)
    traits = PairTraits.of(found.scored, found.held_out.texts)
    if wanted.columns:
        traits = traits.with_columns(column_values(asked.data, wanted.columns, found.scored.row_B.tolist()))
    asking = Asking(wanted.prompts, narrate=narrate)
    answers = wanted.prompts and not found.policy.gives_rewards
    replies = answer(found.policy, found.tokenizer, found.held_out, asking) if answers else None
    begun = _scored_at_start(start, found.held_out, narrate)
    return Examined(
        evaluated=Evaluated.of(found.scored, traits, replies),
        calibration=_calibrated(reading, (found.scored, begun), traits),
        paraphrases=paraphrased(lambda pairs: _gaps(found, pairs)),
        train_gap=_train_gap(training, (found, start), Side(found.scored, begun, traits), narrate),
        drift=_drift(found, start, (replies, asking)) if replies else None,
        speed=_speed(found, replies) if replies else None,
        judged=judged_against_chosen(wanted.judge, replies, found.held_out.texts, narrate)
        if wanted.judge and replies
        else None,
        data={"rows_in": found.rows_in, "rows_used": found.rows_used, "refused": found.refused},
    )


def _second_model(asked: Asked, wanted: Wanted, say: Say) -> Policy | None:
    if wanted.start is None:
        return None
    say(f"loading {wanted.start} as the start")
    device = choose_device()
    return Policy(load_model(find_source(wanted.start), choose_dtype(dtype_name(asked.dtype), device), device))


def _scored_at_start(start: Start, held_out: HeldOut, narrate: Narrator) -> ScoredPairs | None:
    if not start.is_known:
        return None
    with start.policy() as policy:
        return score_pairs(policy, held_out.encoded, report=lambda done, n: narrate("scoring the start", done, n))


def _calibrated(reading: Reading, scores: tuple[ScoredPairs, ScoredPairs | None], traits: PairTraits) -> Calibration:
    pairs, start = scores
    reference = start if reading.needs_reference else None
    return calibration(reading.gap_B(pairs, reference), families_of(pairs, traits), reading.beta)


def _gaps(found: Appraised, pairs: Sequence[PreferencePair]) -> Floats:
    """The mean gap of each pair, NaN for one that does not fit."""
    form = replace(found.held_out.form, max_tokens=max(512, found.held_out.form.max_tokens))
    encoding = encode_pairs(pairs, encoder_for(found.tokenizer, form), form.limits, "the built-in paraphrases")
    gaps = np.full(len(pairs), np.nan)
    if encoding.pairs:
        scored = score_pairs(found.policy, encoding.pairs)
        place = {pair.row: i for i, pair in enumerate(pairs)}
        gaps[[place[row] for row in scored.row_B.tolist()]] = scored.mean_gap_B
    return gaps


def _training_pairs(wanted: Wanted, say: Say) -> Pairs | None:
    if wanted.train is None:
        return None
    given = given_pairs(wanted.train, training=True)
    for sentence in given.said:
        say(sentence)
    return given.pairs


def _train_gap(
    texts: Pairs | None, models: tuple[Appraised, Start], held_out: Side, narrate: Narrator
) -> TrainGap | None:
    """Up to a thousand training pairs, evenly over the file, against the held-out ones."""
    if texts is None:
        return None
    found, start = models
    form, some = found.held_out.form, evenly(texts, _MOST_TRAINING_PAIRS)
    encoding = encode_pairs(some, encoder_for(found.tokenizer, form), form.limits, "the training pairs")
    train = HeldOut(encoding.pairs, texts, form)
    now = score_pairs(found.policy, train.encoded, report=lambda done, n: narrate("scoring training pairs", done, n))
    side = Side(now, _scored_at_start(start, train, narrate), PairTraits.of(now, texts))
    return train_gap(side, held_out)


def _drift(found: Appraised, start: Start, answering: tuple[Generation, Asking]) -> Drift | None:
    if not start.is_known:
        return None
    replies, asking = answering
    with start.policy() as policy:
        own = answer(policy, found.tokenizer, found.held_out, asking)
    encode = encoder_for(found.tokenizer, replace(found.held_out.form, max_tokens=1 << 30))
    paths = Along.of(replies, encode), Along.of(own, encode)
    return moved_from(start, found.policy, paths, lambda done, n: asking.narrate("measuring drift", done, n))


def _speed(found: Appraised, replies: Generation) -> Answering:
    """On the first prompt that was answered."""
    feed, _ = prompt_encoder(found.tokenizer, found.held_out.form)
    return answering_speed(found.policy, feed(replies.replies[0].prompt))
