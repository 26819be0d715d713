"""Judged win rates of a comparison: by a model behind an endpoint, and by people's votes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from evenhand.data.schema import PreferencePair
from evenhand.errors import UserError
from evenhand.evaluation.ballot import questions_of, votes_of
from evenhand.evaluation.endpoint import Endpoint
from evenhand.evaluation.evaluate import Narrator
from evenhand.evaluation.generate import Generation
from evenhand.evaluation.judge import EndpointJudge, Judge, Question, swapped
from evenhand.evaluation.judge import Ruling as _Ruling
from evenhand.evaluation.winrate import Judged, agreement_first, evenly
from evenhand.figure import figure
from evenhand.lifecycle.entrant import Entrant
from evenhand.lifecycle.rewarding import Say, open_reward_model

_LABELLED = 100


def open_judge(name: str, model: str, kept: Path, say: Say) -> Judge:
    """The judge that a command names: a model behind an endpoint, by its address, or else a reward model.

    What an endpoint is asked and says goes to `kept`. Raises UserError for an endpoint without a model's name, ModelError
    for a model that gives no rewards.
    """
    if name.startswith(("http://", "https://")):
        if not model:
            raise UserError(f"--judge {name} answers for several models; say which with --judge-model.")
        return EndpointJudge(Endpoint(name, model), kept)
    return open_reward_model(name, say).judge()


def judged_by(judge: Judge, baseline: Entrant, candidate: Entrant, narrate: Narrator) -> dict[str, Any]:
    """The judge's agreement with people on at most 100 held-out pairs, then how often it prefers the candidate's replies.

    Raises UserError where one of the two kept no replies, or no held-out pairs are known.
    """
    texts = baseline.texts or candidate.texts
    if not texts:
        raise UserError("a judge is measured on held-out pairs first, and none are known; add --data FILE.")
    found = agreement_first(
        judge,
        evenly(texts, _LABELLED),
        _questions(baseline, candidate),
        lambda done, total: narrate(f"asking {judge.name}", done, total),
    ).json()
    rows = [(name, figure(found[name]).words()) for name in ("agreement", "position_bias", "consistent")]
    rate = figure(found["win_rate"]).words() if found["win_rate"] else f"withheld: {found['withheld']}"
    silent = Counter(found["unjudged_labelled"]) + Counter(found["unjudged"])
    rows += [("win_rate", rate), *((f"without a verdict, {why}", str(count)) for why, count in silent.items())]
    return found | {"candidate": candidate.name, "rows": rows}


def judged_against_chosen(
    judge: Judge, replies: Generation, texts: Sequence[PreferencePair], narrate: Narrator
) -> dict[str, Any]:
    """The judge's agreement with people first, then how often it prefers a model's reply to the answer that was chosen."""
    chosen = {pair.prompt: pair for pair in reversed(texts)}
    questions = [
        replace(Question.of(chosen[reply.prompt]), answer_a=reply.text, answer_b=chosen[reply.prompt].chosen)
        for reply in replies.replies
        if reply.prompt in chosen
    ]
    report = partial(narrate, f"asking {judge.name}")
    return agreement_first(judge, evenly(texts, _LABELLED), questions, report).json()


def judged_by_votes(path: Path, baseline: Entrant, candidate: Entrant) -> dict[str, Any]:
    """How often people prefer the candidate's reply; votes on other replies are left out and counted."""
    sides = {(q.prompt, q.answer_a, q.answer_b): q for q in _questions(baseline, candidate)}
    votes = votes_of(path)
    kept: list[tuple[Question, _Ruling]] = []
    for question, ruling in zip(votes.questions, votes.rulings):
        key = (question.prompt, question.answer_a, question.answer_b)
        if key in sides:
            kept.append((question, ruling))
        elif (question.prompt, question.answer_b, question.answer_a) in sides:
            other = swapped(ruling.a_first)
            kept.append((question, _Ruling(other, other)))
    rate = Judged(tuple(question for question, _ in kept), tuple(ruling for _, ruling in kept)).win_rate
    left_out = len(votes.questions) - len(kept)
    rows = [("win_rate", rate.words()), ("votes on other replies, left out", str(left_out))]
    return {
        "judge": f"people ({path.name})",
        "candidate": candidate.name,
        "win_rate": rate.json(),
        "left_out": left_out,
        "rows": rows,
    }


def _questions(baseline: Entrant, candidate: Entrant) -> list[Question]:
    if baseline.replies is None or candidate.replies is None:
        raise UserError(
            "replies are judged, and a model kept none; compare run folders with `evaluation.prompts` above 0."
        )
    return questions_of(candidate.replies, baseline.replies)
