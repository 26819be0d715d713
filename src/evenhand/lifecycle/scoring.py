"""What several answers to a prompt are worth: by rewards, or by how many of each other they beat before a judge."""

from collections.abc import Callable, Sequence
from itertools import combinations

from evenhand.evaluation.judge import Judge, Question, Ruling
from evenhand.online.feedback import preference_of
from evenhand.online.rewards import BrokenRewardError, Reward, worth
from evenhand.online.rollout import Drawn, answered

Scores = list[float]
# Why the answers to a prompt have no scores.
Why = str | BrokenRewardError
# For the answers to each prompt their scores, or why they have none.
Scorer = Callable[[Sequence[Sequence[Drawn]]], Sequence[Scores | Why]]


def by_rewards(rewards: Sequence[Reward], answers: Sequence[Sequence[Drawn]]) -> list[Scores | Why]:
    """The weighted sum of the rewards for each answer; raises BrokenRewardError."""
    scores = iter(worth(rewards, answered([one for own in answers for one in own])))
    return [_said([next(scores) for _ in own]) for own in answers]


def _said(scores: Sequence[float | None]) -> Scores | Why:
    said = [score for score in scores if score is not None]
    return said if len(said) == len(scores) else "no reward says anything of an answer"


def by_wins(judge: Judge, answers: Sequence[Sequence[Drawn]]) -> list[Scores | Why]:
    """For each answer the share of the others to its prompt that it beats, a tie one half.

    A prompt of which one ruling is not whole has no scores: a verdict that is missing is not guessed.
    """
    duels = [(str(i), own, other) for i, all_own in enumerate(answers) for own, other in combinations(all_own, 2)]
    questions = [Question(name, one.task.prompt, one.text, other.text) for name, one, other in duels]
    rulings = iter(judge.rule(questions, lambda *_: None))
    return [_wins(len(own), [next(rulings) for _ in combinations(own, 2)]) for own in answers]


def _wins(n: int, rulings: Sequence[Ruling]) -> Scores | Why:
    """The shares of n answers from the rulings on each two of them."""
    wins = [0.0] * n
    for (i, j), ruling in zip(combinations(range(n), 2), rulings, strict=True):
        won = preference_of(Ruling(ruling.a_first, ruling.b_first))  # by the words of both orders, as it was measured
        if won is None:
            return ruling.why or "unknown"
        wins[i] += won
        wins[j] += 1 - won
    return [own / (n - 1) for own in wins]
