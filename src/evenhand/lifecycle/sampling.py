"""On-policy data: prompts a model has not been held out on, answered several times, scored, and written as judgments."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evenhand.data.bench import CurationRules
from evenhand.data.curate import families
from evenhand.data.items import prompt_text
from evenhand.data.schema import PreferencePair
from evenhand.data.similarity import near_groups
from evenhand.data.snapshot import read_snapshot
from evenhand.errors import DataError, JudgeError, NonFiniteError, UserError
from evenhand.evaluation.evaluate import Narrator
from evenhand.evaluation.generate import Sampling
from evenhand.evaluation.interval import Sample, family_codes, student_mean
from evenhand.evaluation.judge import Judge
from evenhand.files import canonical_json, held, sha256, write_whole
from evenhand.lifecycle.appraisal import given_pairs
from evenhand.lifecycle.contestant import Contestant, load_contestant, require_answers
from evenhand.lifecycle.feedback import counts
from evenhand.lifecycle.practising import fitting, tasks_of_pairs
from evenhand.lifecycle.rewarding import Say, columns_asked, open_rewards, reward_identity
from evenhand.lifecycle.scoring import Scorer, Scores, Why, by_rewards, by_wins
from evenhand.online.feedback import ConstitutionJudge
from evenhand.online.rewards import BrokenRewardError
from evenhand.online.rollout import Draw, Task, draw
from evenhand.online.selection import CHOOSE, Candidate, Choice, Keep
from evenhand.training.material import read_texts
from evenhand.training.reward_section import RewardPart
from evenhand.training.sections import DataSection

_PROMPTS_AT_ONCE = 8
_MOST_FAILED = 10
_FAMILIES = CurationRules().families
_CHOSEN_BY_SCORE = "the score that chose the answers is the one that measures them"
_NO_GAIN = "not measured: wins over a prompt's other answers are one half on average, and chose the answers themselves"


@dataclass(slots=True)
class _Sampled:
    """Prompts by place: the answers to each with `scorer`'s scores, as they are kept, and why others have none.

    `failures` counts the batches in a row of which no prompt was scored, since the reward was broken or the judge silent.
    """

    scorer: str
    done: dict[int, list[dict[str, Any]]]
    lost: dict[int, Why] = field(default_factory=dict)
    failures: int = 0

    def choices(self, tasks: Sequence[Task]) -> list[Choice]:
        """The prompts whose answers are scored, in their order."""
        return [
            Choice(tasks[place].prompt, tuple(Candidate(**one) for one in own), self.scorer, tasks[place].family)
            for place, own in sorted(self.done.items())
        ]

    @property
    def left_out(self) -> dict[str, int]:
        """How many prompts have no scores."""
        broken = sum(isinstance(why, BrokenRewardError) for why in self.lost.values())
        return {"broken_reward": broken, "unscored": len(self.lost) - broken}

    @property
    def unscored(self) -> dict[str, int]:
        """How many have none, by what came instead."""
        return dict(Counter(str(why) for why in self.lost.values()).most_common())


@dataclass(frozen=True, slots=True)
class Order:
    """What to sample: `n` answers to each of the first `limit` prompts, scored by `rewards` or by a judge.

    `held_out` is data whose prompts are left out, beside those that the model's own run held out.
    """

    model: str
    prompts: str
    out: Path
    n: int = 4
    rewards: tuple[RewardPart, ...] = ()
    judge: Judge | None = None
    keep: Keep = "pair"
    held_out: str | None = None
    limit: int | None = None
    max_new_tokens: int = 256
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n < 2 and (self.keep != "best" or self.judge is not None):
            raise UserError(f"--n {self.n}: an answer is compared with others to its prompt; take 2 or more.")
        if bool(self.rewards) == (self.judge is not None):
            raise UserError(
                "give --reward (a reward run, or file.py:function; it may be given again), or --judge, one of the two."
            )


def sample(order: Order, say: Say, narrate: Narrator) -> dict[str, Any]:
    """Draw, score, choose and write; what was drawn before an interruption is not drawn again.

    Raises DataError where no prompt is left or none gives a row, NonFiniteError where the rewards stay broken, JudgeError
    where the judge gives no verdicts, and what loading raises.
    """
    model = load_contestant(order.model, "auto", say)
    require_answers(model)
    tasks, left_out = clean_tasks(order, model, say)
    fits = fitting(tasks, model.policy, model.serving, order.max_new_tokens)
    kept = fits[: order.limit]
    left_out |= {"too_long": len(tasks) - len(fits), "beyond_limit": len(fits) - len(kept)}
    known = _identity(order, model, kept)
    order.out.parent.mkdir(parents=True, exist_ok=True)
    partial = order.out.with_name(f".{order.out.name}.partial")
    partial.touch()
    with held(partial):
        sampled = _sampled(order, model, (kept, partial, known), (say, narrate))
        made = [(choice, CHOOSE[order.keep](choice)) for choice in sampled.choices(kept)]
        rows = [row for _, row in made if row is not None]
        if not rows:
            why = f" ({counts(sampled.unscored)})" if sampled.lost else ""
            raise DataError(
                f"none of {len(kept)} prompts gave answers that end and differ in score{why}; nothing was written."
            )
        write_whole(order.out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        partial.unlink(missing_ok=True)
    ended = [candidate.ended for choice, _ in made for candidate in choice.candidates]
    return {
        "out": str(order.out),
        "rows": len(rows),
        "prompts": len(kept),
        "left_out": left_out | sampled.left_out | {"no_choice": len(made) - len(rows)},
        "unscored": sampled.unscored,
        "answers": len(ended),
        "ended": float(np.mean(ended)),
        **_gain(order, [choice for choice, row in made if row is not None]),
    }


def clean_tasks(order: Order, model: Contestant, say: Say) -> tuple[tuple[Task, ...], dict[str, int]]:
    """The prompts to answer, without those held out and those like them, and how many were left out."""
    names = columns_asked(order.rewards)
    tasks = tasks_of_pairs(_prompts(order.prompts, say), order.prompts, [name for name in names if name != "reference"])
    own, why = model.own_held_out() if model.recipe is not None else ((), None)
    if why:
        say(f"{order.model}: {why}; only --held-out is left out")
    other = given_pairs(order.held_out).pairs if order.held_out else ()
    guarded = {prompt_text(pair.prompt) for pair in (*own, *other)}
    texts = [prompt_text(task.prompt) for task in tasks]
    groups = near_groups([*texts, *guarded], _FAMILIES)
    taken = set(groups[len(texts) :])
    kept = tuple(task for task, group in zip(tasks, groups) if group not in taken)
    if not kept:
        raise DataError(
            f"all {len(tasks)} prompts of {order.prompts} are held out, or like those that are; give others."
        )
    say(
        f"{len(kept)} prompts to answer; {len(tasks) - len(kept)} are left out, being held out or like prompts that are"
    )
    return kept, {"held_out": len(tasks) - len(kept)}


def _prompts(source: str, say: Say) -> tuple[PreferencePair, ...]:
    """The prompts of a file of any kind, or of the training side of curated data."""
    if (Path(source) / "dataset.json").exists():
        return read_snapshot(Path(source)).train
    texts = read_texts(DataSection(source=source), "prompts")
    for sentence in texts.said:
        say(sentence)
    return texts.train


def _sampled(
    order: Order, model: Contestant, work: tuple[Sequence[Task], Path, str], telling: tuple[Say, Narrator]
) -> _Sampled:
    """The scored answers to all prompts; each batch has a seed of its own, and what of it is scored is kept when it is done."""
    tasks, partial, known = work
    say, narrate = telling
    scorer, name = _scorer(order, model, say)
    sampled = _Sampled(name, _kept_before(partial, known))
    for start in range(0, len(tasks), _PROMPTS_AT_ONCE):
        batch = tasks[start : start + _PROMPTS_AT_ONCE]
        missing = [place for place in range(start, start + len(batch)) if place not in sampled.done]
        if missing:
            torch.manual_seed(int(sha256(canonical_json([order.seed, start]))[:15], 16))
            how = Draw(order.n, order.max_new_tokens, order.sampling)
            drawn = draw(model.policy, model.serving, batch, how)
            answers = [drawn[(place - start) * order.n :][: order.n] for place in missing]
            found: Sequence[Scores | Why]
            try:
                found = scorer(answers)
            except BrokenRewardError as error:
                say(f"{len(missing)} prompts are skipped: {error}")
                found = [error] * len(missing)
            with partial.open("a", encoding="utf-8") as file:
                for place, own, scores in zip(missing, answers, found, strict=True):
                    if isinstance(scores, list):
                        sampled.done[place] = [Candidate(r.text, s, r.ended).json() for r, s in zip(own, scores)]
                        line = {"known": known, "at": place, "candidates": sampled.done[place]}
                        file.write(json.dumps(line) + "\n")
                    else:
                        sampled.lost[place] = scores
            _refuse_failures(order, sampled, (found, start + len(batch) >= len(tasks)))
        narrate("answering and scoring", min(start + len(batch), len(tasks)), len(tasks))
    return sampled


def _refuse_failures(order: Order, sampled: _Sampled, batch: tuple[Sequence[Scores | Why], bool]) -> None:
    """Count a batch of which nothing is scored, and raise where that goes on, or it is the last and none was."""
    found, last = batch
    silent = order.judge is not None or isinstance(found[0], BrokenRewardError)
    sampled.failures = sampled.failures + 1 if silent and not any(isinstance(one, list) for one in found) else 0
    if not sampled.failures or (sampled.failures <= _MOST_FAILED and (sampled.done or not last)):
        return
    if isinstance(error := found[0], BrokenRewardError):
        raise NonFiniteError(f"{error}, {sampled.failures} times in a row; correct the reward {error.name}.") from error
    assert order.judge is not None
    raise JudgeError(
        f"{order.judge.name} left {len(sampled.lost)} prompts without verdicts in both orders on all their answers "
        f"({counts(sampled.unscored)}); nothing was written. The same command goes on from there."
    )


def _kept_before(partial: Path, known: str) -> dict[int, list[dict[str, Any]]]:
    """What an interrupted sampling of the same order has scored, by prompt; a line half written is drawn again."""
    found: dict[int, list[dict[str, Any]]] = {}
    text = partial.read_text(encoding="utf-8")
    if text and not text.endswith("\n"):
        with partial.open("a", encoding="utf-8") as file:
            file.write("\n")
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if value["known"] != known:
            raise UserError(
                f"{partial} holds another sampling that was interrupted; finish it, remove it, or choose another --out."
            )
        found[value["at"]] = value["candidates"]
    return found


def _scorer(order: Order, model: Contestant, say: Say) -> tuple[Scorer, str]:
    """What scores answers, and the name that stands as annotator."""
    if (judge := order.judge) is not None:
        return (lambda answers: by_wins(judge, answers)), judge.name
    rewards = open_rewards(order.rewards, model.tokenizer, say)
    return (lambda answers: by_rewards(rewards, answers)), " + ".join(reward.name for reward in rewards)


def _identity(order: Order, model: Contestant, tasks: Sequence[Task]) -> str:
    """What two samplings must share for the one to go on where the other stopped."""
    prompts = [[message.json() for message in task.prompt] for task in tasks]
    drawing = [order.n, order.max_new_tokens, asdict(order.sampling), order.seed]
    rewards = [[part.model_dump() for part in order.rewards], reward_identity(order.rewards)]
    judge: list[Any] = [order.judge.name] if order.judge else []
    if isinstance(order.judge, ConstitutionJudge):
        judge += [order.judge.constitution.sha256, order.judge.every]
    return sha256(canonical_json([model.weights_sha256, prompts, drawing, rewards, judge]))


def _gain(order: Order, picked: Sequence[Choice]) -> dict[str, Any]:
    """Of the prompts that gave a row, in the scorer's unit: an answer's score, the best one's of those that may be chosen,
    and what choosing it gains."""
    if order.judge is not None:
        return {"mean_score": None, "best_of_n": None, "gain": None, "gain_note": _NO_GAIN}
    means = np.array([np.mean([c.score for c in choice.candidates]) for choice in picked])
    bests = np.array([choice.ranked[0].score for choice in picked])
    prompts = [prompt_text(choice.prompt) for choice in picked]
    alike = family_codes(families(prompts, [choice.family for choice in picked], _FAMILIES), len(picked))
    return {
        "mean_score": student_mean(Sample(means, alike)).json(),
        "best_of_n": student_mean(Sample(bests, alike)).json(),
        "gain": student_mean(Sample(bests - means, alike)).json(),
        "gain_note": _CHOSEN_BY_SCORE,
    }
