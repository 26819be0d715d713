"""The loop of PPO: draw replies, reward them, learn from them, journal, checkpoint; it resumes by itself.

Shapes: S replies of a step, E tokens of all of them end to end, M tokens of a minibatch.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from signal import Signals
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from evenhand.errors import InterruptedRun, NonFiniteError
from evenhand.evaluation.generate import Serving
from evenhand.model.encode import EncodedSide
from evenhand.online.advantage import advantages, explained_variance, token_rewards, whitened
from evenhand.online.learner import Learner
from evenhand.online.ppo import Clips, Tokens, losses, means
from evenhand.online.replies import read_tokens, starts_of
from evenhand.online.rewards import BrokenRewardError, Reward, mean_said, require_difference, taught, worth
from evenhand.online.rollout import Draw, Drawn, Task, answered, draw
from evenhand.training.checkpoint import checkpoints_of
from evenhand.training.journal import append_record, journal_of
from evenhand.training.memory import memory_peak_bytes
from evenhand.training.optim import MasterAdamW
from evenhand.training.ranks import Ranks
from evenhand.training.resume import Progress, resume, save
from evenhand.training.schedule import Schedule
from evenhand.training.sections import TrainingSection
from evenhand.training.signals import signals_held

# Tokens read at a time, without and with a gradient.
_TOKENS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class PPO:
    """PPO's numbers. `kl` weighs the distance from the reference in each token's reward; `unfinished` is what a reply
    that did not end gets instead of its score, None to score it as it is."""

    draw: Draw
    kl: float
    epochs: int
    minibatches: int
    clips: Clips
    discounts: tuple[float, float]
    whiten_rewards: bool = False
    unfinished: float | None = None


Method = TypeVar("Method")


@dataclass(frozen=True, slots=True)
class Practice(Generic[Method]):
    """What to practise, for what rewards, by what method, and where; `steps` of `settings.batch_pairs` prompts each."""

    tasks: Sequence[Task]
    rewards: Sequence[Reward]
    method: Method
    serving: Serving
    settings: TrainingSection
    folder: Path
    identity: dict[str, str]
    allowed: tuple[str, ...] = ()
    report: Callable[[dict[str, Any], int], None] = lambda *_: None
    ranks: Ranks = field(default_factory=Ranks)

    @property
    def steps(self) -> int:
        """Optimizer steps, counted in rollouts."""
        settings = self.settings
        passes = (settings.epochs or 0) * len(self.tasks)
        return settings.steps or -(-passes // settings.batch_pairs)


@dataclass(frozen=True, slots=True)
class Experience:
    """The replies of a step and what is known of their tokens."""

    replies: tuple[EncodedSide, ...]
    tokens: Tokens
    record: dict[str, Any]


def practise(learner: Learner, job: Practice[PPO]) -> int:
    """Train the learner's policy to the last step, and return that; resumes from the newest good checkpoint.

    Raises RecipeError where the folder holds another run, NonFiniteError for weights that are not numbers and, past
    `max_skipped`, for rewards that teach nothing, StorageError, InterruptedRun.
    """
    settings = job.settings
    optimizer = MasterAdamW(learner, settings.weight_decay, job.ranks)
    schedule = Schedule(settings.schedule, settings.learning_rate, settings.warmup, job.steps)
    progress = resume(learner.policy, optimizer, job)
    learner.eval()
    with signals_held() as received, closing(optimizer):
        while progress.step < job.steps:
            record = _step(learner, optimizer, job, (progress, schedule.rate(progress.step)))
            append_record(journal_of(job.folder), record)
            job.report(record, job.steps)
            every = settings.checkpoint_every
            if received or progress.step == job.steps or (every and progress.step % every == 0):
                save(learner.policy, optimizer, progress, job)
            if received:
                raise InterruptedRun(interruption(job, progress, received[0]), received[0].value)
    return progress.step


def _step(learner: Learner, optimizer: MasterAdamW, job: Practice[PPO], at: tuple[Progress, float]) -> dict[str, Any]:
    """One rollout and what is learned from it; the journal's record."""
    progress, rate = at
    began = time.perf_counter()
    tasks = tasks_of(job.tasks, job.settings, progress.step)
    drawn = draw(learner.policy, job.serving, tasks, job.method.draw)
    record: dict[str, Any]
    try:
        experience = gather(learner, job, drawn)
        record = experience.record | learn(learner, optimizer, (experience, job), rate)
        progress.without_gain = 0
    except BrokenRewardError as error:
        record = {"skipped": skip(progress, job.settings, error)}
    progress.step += 1
    progress.pairs += len(drawn)
    progress.tokens += sum(len(reply.tokens.tokens) for reply in drawn)
    progress.seconds += time.perf_counter() - began
    return {
        "step": progress.step,
        "pairs": progress.pairs,
        "tokens": progress.tokens,
        **record,
        "learning_rate": rate,
        "seconds": progress.seconds,
        "pairs_per_second": progress.pairs / progress.seconds,
        "memory_peak_bytes": memory_peak_bytes(learner.policy.device),
    }


def skip(progress: Progress, settings: TrainingSection, error: BrokenRewardError) -> str:
    """Count a step without anything to learn from; raises past the limit, counting those in a row."""
    progress.skipped += 1
    progress.without_gain += 1
    if progress.without_gain > settings.max_skipped:
        raise NonFiniteError(
            f"{error}, and so it was {progress.without_gain} steps in a row (`training.max_skipped` is "
            f"{settings.max_skipped}); correct the reward {error.name}, or end the run before it has nothing to teach."
        ) from error
    return str(error)


def tasks_of(tasks: Sequence[Task], settings: TrainingSection, step: int) -> list[Task]:
    """The prompts of a step: every one once, in an order of the seed's, before any comes again."""
    count = settings.batch_pairs
    places = range(step * count, (step + 1) * count)
    orders = {epoch: order_of(len(tasks), settings.seed, epoch) for epoch in {place // len(tasks) for place in places}}
    return [tasks[orders[place // len(tasks)][place % len(tasks)]] for place in places]


def order_of(count: int, seed: int, epoch: int) -> list[int]:
    """The order of one pass."""
    return [int(i) for i in np.random.default_rng([seed, epoch]).permutation(count)]


@torch.no_grad()
def gather(learner: Learner, job: Practice[PPO], drawn: Sequence[Drawn]) -> Experience:
    """Reward the replies and work out the advantage of each of their tokens; raises BrokenRewardError."""
    ppo = job.method
    scores = worth(job.rewards, answered(drawn))
    if ppo.unfinished is not None:
        scores = [score if reply.ended else ppo.unfinished for score, reply in zip(scores, drawn)]
    cut = ppo.unfinished is not None and not any(reply.ended for reply in drawn)
    require_difference(job.rewards, scores, ", of which none ended" if cut else "")
    replies = tuple(reply.tokens for reply in drawn)
    parts = [[replies[i] for i in places] for places in parts_of(replies, range(len(replies)))]
    now = [read_tokens(learner.policy, part, learner.value_head) for part in parts]
    with learner.reference() as reference:
        then_E = torch.cat([read_tokens(reference, part, None).log_prob_E for part in parts])
    log_prob_E = torch.cat([told.log_prob_E for told in now])
    value_E = torch.cat([told.value_E for told in now if told.value_E is not None])
    starts, log_ratio_E = starts_of(replies), log_prob_E - then_E
    reward_E = token_rewards(torch.tensor(taught(scores)), log_ratio_E, starts, ppo.kl)
    if ppo.whiten_rewards:
        reward_E = whitened(reward_E, shift=False)
    advantage_E, return_E = advantages(reward_E, value_E, starts, ppo.discounts)
    record = {
        "reward": mean_said(scores),
        "kl": float(log_ratio_E.double().sum()) / len(replies),
        "entropy": -float(log_prob_E.double().mean()),
        "explained_variance": explained_variance(value_E, return_E),
        "ended": float(np.mean([reply.ended for reply in drawn])),
        "reply_tokens": starts[-1] / len(replies),
    }
    return Experience(replies, Tokens(log_prob_E, value_E, whitened(advantage_E), return_E), record)


def learn(
    learner: Learner, optimizer: MasterAdamW, given: tuple[Experience, Practice[PPO]], rate: float
) -> dict[str, Any]:
    """Several passes over the replies in minibatches, each an optimizer step; what they showed, per token."""
    experience, job = given
    ppo, replies = job.method, experience.replies
    starts = starts_of(replies)
    sums, tokens, norms = torch.zeros(5, dtype=torch.float64), 0, []
    for _ in range(ppo.epochs):
        for chosen in torch.randperm(len(replies)).chunk(ppo.minibatches):
            count = sum(replies[i].scored for i in chosen.tolist())
            for part in parts_of(replies, chosen.tolist()):
                told = read_tokens(learner.policy, [replies[i] for i in part], learner.value_head)
                assert told.value_E is not None
                place_M = torch.cat([torch.arange(starts[i], starts[i + 1]) for i in part])
                before = experience.tokens.at(place_M.to(told.value_E.device))
                found = losses(told.log_prob_E, told.value_E, before, ppo.clips)
                (found.total / count).backward()
                sums += found.sums()
            tokens += count
            norms.append(move(optimizer, job.settings.max_gradient_norm, rate))
    return means(sums, tokens) | {"gradient_norm": float(np.mean(norms))}


def move(optimizer: MasterAdamW, largest: float, rate: float) -> float:
    """One optimizer step, and the gradient's norm before it was cut to `largest`; raises NonFiniteError and moves nothing."""
    norm = optimizer.gradient_norm(largest)
    if not np.isfinite(norm):
        raise NonFiniteError("the gradient is not finite; the last checkpoint is good.")
    if name := optimizer.broken_master():
        raise NonFiniteError(f"the weight {name} is not finite; the last checkpoint is good.", data_at_fault=False)
    optimizer.step(rate)
    return norm


def parts_of(replies: Sequence[EncodedSide], places: Sequence[int]) -> Iterator[list[int]]:
    """The places in order, cut so that the replies at each part's have no more than about 4096 tokens."""
    part: list[int] = []
    tokens = 0
    for place in places:
        own = len(replies[place].tokens)
        if part and tokens + own > _TOKENS_AT_ONCE:
            yield part
            part, tokens = [], 0
        part.append(place)
        tokens += own
    yield part


def interruption(job: Practice[Any], progress: Progress, received: Signals) -> str:
    """What a run says that a signal stopped after it was saved."""
    return (
        f"stopped by {received.name} after step {progress.step} of {job.steps}, which is saved in {checkpoints_of(job.folder)}; the same "
        "command goes on from there."
    )
