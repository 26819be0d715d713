"""On-policy data: prompts a model has not been held out on, answered several times, scored, and written as judgments."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evenhand.data.bench import CurationRules
from evenhand.data.items import prompt_text
from evenhand.data.schema import PreferencePair
from evenhand.data.similarity import near_groups
from evenhand.data.snapshot import read_snapshot
from evenhand.errors import DataError, NonFiniteError, UserError
from evenhand.evaluation.evaluate import Narrator
from evenhand.evaluation.generate import Sampling
from evenhand.evaluation.interval import Sample, family_codes, student_mean
from evenhand.evaluation.judge import Judge, Question
from evenhand.files import canonical_json, held, sha256, write_whole
from evenhand.lifecycle.appraisal import given_pairs
from evenhand.lifecycle.contestant import Contestant, load_contestant, require_answers
from evenhand.lifecycle.practising import fitting, tasks_of_pairs
from evenhand.lifecycle.rewarding import Say, columns_asked, open_rewards, reward_identity
from evenhand.online.rewards import BrokenRewardError, worth
from evenhand.online.rollout import Draw, Drawn, Task, answered, draw
from evenhand.online.selection import Candidate, Choice, Keep, rows_of
from evenhand.training.material import read_texts
from evenhand.training.reward_section import RewardPart
from evenhand.training.sections import DataSection

_PROMPTS_AT_ONCE = 8
_MOST_BROKEN = 10
_FAMILIES = CurationRules().families

Scorer = Callable[[Sequence[Drawn]], list[float]]


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
        if self.n < 2 and self.keep != "best":
            raise UserError(f"--n {self.n}: an answer is compared with others to its prompt; take 2 or more.")
        if bool(self.rewards) == (self.judge is not None):
            raise UserError(
                "give --reward (a reward run, or file.py:function; it may be given again), or --judge, one of the two."
            )


def sample(order: Order, say: Say, narrate: Narrator) -> dict[str, Any]:
    """Draw, score, choose and write; what was drawn before an interruption is not drawn again.

    Raises DataError where no prompt is left or the rewards stay broken, and what loading raises.
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
        choices = _drawn_choices(order, model, (kept, partial, known), (say, narrate))
        rows = rows_of(choices, order.keep)
        if not rows:
            raise DataError(
                f"none of {len(choices)} prompts gave answers that end and differ in score; nothing was written."
            )
        write_whole(order.out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        partial.unlink(missing_ok=True)
    return _told(order, choices, rows, left_out)


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


def _drawn_choices(
    order: Order, model: Contestant, work: tuple[Sequence[Task], Path, str], telling: tuple[Say, Narrator]
) -> list[Choice]:
    """The choices of all prompts; each batch has a seed of its own and is kept when it is done."""
    tasks, partial, known = work
    say, narrate = telling
    scorer, name = _scorer(order, model, say)
    done = _kept_before(partial, known)
    broken = 0
    for start in range(0, len(tasks), _PROMPTS_AT_ONCE):
        batch = tasks[start : start + _PROMPTS_AT_ONCE]
        if str(start) not in done:
            torch.manual_seed(int(sha256(canonical_json([order.seed, start]))[:15], 16))
            how = Draw(order.n, order.max_new_tokens, order.sampling)
            drawn = draw(model.policy, model.serving, batch, how)
            try:
                scores, broken = scorer(drawn), 0
            except BrokenRewardError as error:
                broken += 1
                say(f"{len(batch)} prompts are skipped: {error}")
                if broken > _MOST_BROKEN or (start + len(batch) >= len(tasks) and not done):
                    raise NonFiniteError(
                        f"{error}, {broken} times in a row; correct the reward {error.name}."
                    ) from error
                continue
            done[str(start)] = [Candidate(r.text, s, r.ended).json() for r, s in zip(drawn, scores)]
            with partial.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"known": known, "at": str(start), "candidates": done[str(start)]}) + "\n")
        narrate("answering and scoring", min(start + len(batch), len(tasks)), len(tasks))
    return [choice for start, drawn in done.items() for choice in _choices(tasks[int(start) :], drawn, (order.n, name))]


def _choices(tasks: Sequence[Task], drawn: Sequence[dict[str, Any]], given: tuple[int, str]) -> Iterator[Choice]:
    n, name = given
    for i in range(len(drawn) // n):
        own = tuple(Candidate(**value) for value in drawn[i * n : (i + 1) * n])
        yield Choice(tasks[i].prompt, own, name)


def _kept_before(partial: Path, known: str) -> dict[str, list[dict[str, Any]]]:
    """What an interrupted sampling of the same order has drawn, by batch; a line half written is drawn again."""
    found: dict[str, list[dict[str, Any]]] = {}
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
    """What scores replies, and the name that stands as annotator."""
    if order.judge is not None:
        judge = order.judge
        return (lambda drawn: wins_of(judge, drawn, order.n)), judge.name
    rewards = open_rewards(order.rewards, model.tokenizer, say)
    return (lambda drawn: worth(rewards, answered(drawn))), " + ".join(reward.name for reward in rewards)


def wins_of(judge: Judge, drawn: Sequence[Drawn], n: int) -> list[float]:
    """For each reply the share of others to its prompt that it beats, a tie or no verdict one half."""
    places = [
        (i, j) for start in range(0, len(drawn), n) for i in range(start, start + n) for j in range(i + 1, start + n)
    ]
    questions = [Question(f"{i} {j}", drawn[i].task.prompt, drawn[i].text, drawn[j].text) for i, j in places]
    wins = [0.0] * len(drawn)
    for (i, j), ruling in zip(places, judge.rule(questions, lambda *_: None)):
        said = [{"a": 1.0, "b": 0.0}.get(verdict or "tie", 0.5) for verdict in (ruling.a_first, ruling.b_first)]
        wins[i] += sum(said) / 2
        wins[j] += 1 - sum(said) / 2
    return [won / (n - 1) for won in wins]


def _identity(order: Order, model: Contestant, tasks: Sequence[Task]) -> str:
    """What two samplings must share for the one to go on where the other stopped."""
    prompts = [[message.json() for message in task.prompt] for task in tasks]
    judged = order.judge.name if order.judge else None
    said = [order.n, order.max_new_tokens, asdict(order.sampling), order.seed, reward_identity(order.rewards), judged]
    return sha256(canonical_json([model.weights_sha256, prompts, said]))


def _told(
    order: Order, choices: Sequence[Choice], rows: Sequence[dict[str, Any]], left_out: dict[str, int]
) -> dict[str, Any]:
    """Counts, and what choosing the best gains over taking any, in the scorer's unit."""
    means = np.array([np.mean([c.score for c in choice.candidates]) for choice in choices])
    bests = np.array([max(c.score for c in choice.candidates) for choice in choices])
    alone = family_codes(None, len(choices))
    ended = float(np.mean([c.ended for choice in choices for c in choice.candidates]))
    return {
        "out": str(order.out),
        "rows": len(rows),
        "prompts": len(choices),
        "left_out": left_out | {"no_choice": len(choices) - len(rows)},
        "answers": sum(len(choice.candidates) for choice in choices),
        "ended": ended,
        "mean_score": student_mean(Sample(means, alone)).json(),
        "best_of_n": student_mean(Sample(bests, alone)).json(),
        "gain": student_mean(Sample(bests - means, alone)).json(),
    }
