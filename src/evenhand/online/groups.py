"""GRPO and RLOO: TRL's trainers on evenhand's policy, prompts, rewards, optimizer, journal and checkpoints.

TRL draws, weighs and differentiates; it saves nothing, and what it does to the model is undone at the end. A step draws
replies to `batch_pairs` prompts and learns from them in `passes` optimizer steps, so that nothing drawn is pending where a
checkpoint is written. On one device with transformers a run that was cut goes on with the same bits; with vLLM it does not,
since vLLM's own random state is not kept.
"""

import copy
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from importlib.util import find_spec
from signal import Signals
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PrinterCallback, TrainerCallback
from transformers.utils import logging
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from trl.trainer.utils import add_fused_lm_head

from evenhand.errors import InterruptedRun, UserError
from evenhand.evaluation.generate import Reply, Sampling, Serving, as_served, decoding, reply_of
from evenhand.model.forward import Policy, causal
from evenhand.online.practice import Practice, interruption, move, skip, tasks_of
from evenhand.online.rewards import BrokenRewardError, mean_said, taught, worth
from evenhand.online.rollout import Task, answers_to
from evenhand.training.checkpoint import random_state, restore_random_state
from evenhand.training.journal import append_record, journal_of
from evenhand.training.memory import memory_peak_bytes
from evenhand.training.optim import MasterAdamW
from evenhand.training.practice_sections import GroupSection, GRPOSection, RLOOSection
from evenhand.training.resume import resume, save
from evenhand.training.schedule import Schedule
from evenhand.training.signals import signals_held

# What TRL measures, by the names of the journal.
_NAMES = {
    "loss": "loss",
    "entropy": "entropy",
    "kl": "token_kl",
    "clip_ratio/region_mean": "clip_fraction",
    "frac_reward_zero_std": "equal_groups",
}


def practise_groups(policy: Policy, job: Practice[GroupSection]) -> int:
    """Train the policy to the last step, and return that; resumes from the newest good checkpoint.

    Raises what PPO's loop raises, and UserError where vLLM is asked for and not installed.
    """
    config = decoding(policy.model, job.serving, job.method.max_new_tokens, Sampling(job.method.temperature))
    with TemporaryDirectory() as scratch, as_served(policy.model, config) as stops, left_as_it_was(policy):
        session = Session(policy, job, stops)
        with closing(session.master), signals_held() as session.received:
            if session.progress.step < job.steps:
                session.trainer(scratch).train()
    return session.progress.step


class Session:
    """A run in progress: what TRL calls back into, between drawing and the journal."""

    def __init__(self, policy: Policy, job: Practice[GroupSection], stops: frozenset[int]) -> None:
        self.policy, self.job, self.stops = policy, job, stops
        settings = job.settings
        self.master = MasterAdamW(policy, settings.weight_decay, job.ranks)
        self.schedule = Schedule(settings.schedule, settings.learning_rate, settings.warmup, job.steps)
        self.reference = reference_of(policy, job.method)  # before weights are taken back from a checkpoint
        torch.manual_seed(settings.seed)
        self.progress = resume(policy, self.master, job)
        self.random = random_state(policy.device, job.ranks)
        self.record: dict[str, Any] = {}
        self.norms: list[float] = []
        self.broken: BrokenRewardError | None = None
        self.received: list[Signals] = []

    def trainer(self, scratch: str) -> GRPOTrainer | RLOOTrainer:
        """TRL's trainer for the steps that are left."""
        job, model = self.job, self.policy.model
        places = {task: at for at, task in enumerate(job.tasks)}
        left = range(self.progress.step, job.steps)
        rows = [str(places[task]) for step in left for task in tasks_of(job.tasks, job.settings, step)]
        optimizer = Stepper(self)
        made = {
            "model": model,
            "reward_funcs": [self.reward],
            "train_dataset": Dataset.from_dict({"prompt": rows}),
            "processing_class": copy.deepcopy(job.serving.tokenizer),
            "callbacks": [Recorder(self)],
            "optimizers": (optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)),
        }
        trainer = made_trainer(job, made, scratch, len(left))
        trainer.beta, trainer.ref_model = job.method.kl, self.reference
        trainer.eos_token_ids = sorted(self.stops)
        if not job.method.vllm:
            trainer.generation_kwargs["eos_token_id"] = trainer.eos_token_ids
            trainer.generation_config.eos_token_id = trainer.eos_token_ids
        trainer.remove_callback(PrinterCallback)
        return trainer

    def reward(self, prompts: Sequence[str], completion_ids: Sequence[list[int]], **_: Any) -> list[float]:
        """What the replies of a step are worth, as TRL asks; 0 for all where a reward is broken, and then no step is made."""
        tasks = [self.job.tasks[int(place)] for place in prompts]
        serving = self.job.serving
        replies = [reply_of(t.prompt, ids, self.stops, serving.tokenizer) for t, ids in zip(tasks, completion_ids)]
        self.progress.pairs += len(replies)
        self.progress.tokens += sum(r.tokens + len(serving.prompt_tokens(t.prompt)) for t, r in zip(tasks, replies))
        try:
            scores, self.broken = self._scores(tasks, replies), None
        except BrokenRewardError as error:
            self.broken = error
            return [0.0] * len(replies)
        self.record |= {
            "reward": mean_said(scores),
            "ended": float(np.mean([reply.ended for reply in replies])),
            "reply_tokens": float(np.mean([reply.tokens for reply in replies])),
        }
        return taught(scores)

    def _scores(self, tasks: Sequence[Task], replies: Sequence[Reply]) -> list[float | None]:
        scores = worth(self.job.rewards, answers_to(tasks, [reply.text for reply in replies]))
        n, values = self.job.method.replies, taught(scores)
        if all(len(set(values[start : start + n])) == 1 for start in range(0, len(values), n)):
            names = " + ".join(reward.name for reward in self.job.rewards)
            raise BrokenRewardError(names, f"is the same for all {n} replies to each of {len(values) // n} prompts")
        return scores

    def move(self) -> None:
        """One optimizer step, unless a reward is broken."""
        if self.broken is not None:
            self.master.forget_gradients()
            return
        rate = self.schedule.rate(self.progress.step)
        self.norms.append(move(self.master, self.job.settings.max_gradient_norm, rate))

    def finish(self, seconds: float) -> dict[str, Any]:
        """Count the step; its record for the journal."""
        progress, policy = self.progress, self.policy
        rate = self.schedule.rate(progress.step)
        if self.broken is None:
            told = self.record | {"gradient_norm": float(np.mean(self.norms))}
            progress.without_gain = 0
        else:
            told = {"skipped": skip(progress, self.job.settings, self.broken)}
        self.record, self.norms = {}, []
        progress.step += 1
        progress.seconds += seconds
        return {
            "step": progress.step,
            "pairs": progress.pairs,
            "tokens": progress.tokens,
            **told,
            "learning_rate": rate,
            "seconds": progress.seconds,
            "pairs_per_second": progress.pairs / progress.seconds,
            "memory_peak_bytes": memory_peak_bytes(policy.device),
        }


class Stepper(torch.optim.Optimizer):
    """MasterAdamW as accelerate calls an optimizer; its state is kept by evenhand's checkpoints."""

    def __init__(self, session: Session) -> None:
        super().__init__([{"params": session.master.masters}], {"lr": 0.0})
        self.session = session

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move the weights."""
        del closure
        self.session.move()


class Recorder(TrainerCallback):
    """Journal, checkpoints and signals at the end of each step."""

    def __init__(self, session: Session) -> None:
        self.session, self.began = session, time.perf_counter()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take up the random numbers where the run left them: making the trainer and its loader drew some."""
        del args, control, kwargs
        if state.global_step == 0:
            restore_random_state(self.session.random, self.session.policy.device)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any) -> None:
        """After each pass; a step ends with its last one."""
        del args, control, kwargs
        if "train_runtime" in logs:
            return
        session, passes = self.session, self.session.job.method.passes
        measured = {own: logs[name] for name, own in _NAMES.items() if logs.get(name) is not None}
        session.record |= {own: value for own, value in measured.items() if math.isfinite(value)}
        if state.global_step % passes:
            return
        now = time.perf_counter()
        record = session.finish(now - self.began)
        self.began = now
        self._keep(record)

    def _keep(self, record: dict[str, Any]) -> None:
        session = self.session
        job, progress = session.job, session.progress
        append_record(journal_of(job.folder), record)
        job.report(record, job.steps)
        every = job.settings.checkpoint_every
        if session.received or progress.step == job.steps or (every and progress.step % every == 0):
            save(session.policy, session.master, progress, job)
        if session.received:
            raise InterruptedRun(interruption(job, progress, session.received[0]), session.received[0].value)


class _OwnPrompts:
    """What both trainers do otherwise here: prompts are places among the tasks, fed as a server would; nobody is told."""

    tasks: Sequence[Task]
    serving: Serving

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [self.serving.prompt_tokens(self.tasks[int(place)].prompt) for place in prompts], None, {}

    def _send_telemetry(self) -> None:
        """Nothing leaves the machine."""


class OwnGRPO(_OwnPrompts, GRPOTrainer):
    """TRL's GRPO."""


class OwnRLOO(_OwnPrompts, RLOOTrainer):
    """TRL's RLOO."""


def made_trainer(job: Practice[GroupSection], made: dict[str, Any], scratch: str, steps: int) -> OwnGRPO | OwnRLOO:
    """The trainer of the section's method, for so many steps."""
    section, settings = job.method, job.settings
    if section.vllm and find_spec("vllm") is None:
        raise UserError("`objective.vllm` needs vLLM; install it with `pip install vllm`, or leave the key out.")
    replies = settings.batch_pairs * section.replies
    at_once = max(n for n in range(1, min(section.at_once, replies) + 1) if replies % n == 0)
    said: dict[str, Any] = {
        "output_dir": scratch,
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 1,
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": False,
        "gradient_checkpointing": False,  # evenhand's own is on where asked
        "max_grad_norm": 0.0,  # evenhand cuts the masters' gradients
        "lr_scheduler_type": "constant",
        "shuffle_dataset": False,  # rows are in their order already
        "seed": settings.seed,
        "max_steps": steps * section.passes,
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": replies // at_once,
        "num_generations": section.replies,
        "num_iterations": section.passes,
        "max_completion_length": section.max_new_tokens,
        "temperature": section.temperature,
        "epsilon": section.clip,
        "beta": 0.0,  # set afterwards: TRL would add an adapter, or load the model again, for a reference
        "mask_truncated_completions": section.leave_out_cut,
        "use_vllm": section.vllm,
    }
    with warnings.catch_warnings():  # the names of some settings change from one transformers to the next
        warnings.simplefilter("ignore", FutureWarning)
        if isinstance(section, GRPOSection):
            trainer = OwnGRPO(args=GRPOConfig(**said, loss_type=section.loss, scale_rewards=section.scale), **made)
        else:
            assert isinstance(section, RLOOSection)
            trainer = OwnRLOO(args=RLOOConfig(**said, normalize_advantages=section.whiten), **made)
    trainer.tasks, trainer.serving = job.tasks, job.serving
    return trainer


def reference_of(policy: Policy, section: GroupSection) -> Any:
    """A frozen copy where distance is paid for and there is no adapter to switch off, None elsewhere."""
    if not section.kl or isinstance(policy.model, PeftModel):
        return None
    frozen = copy.deepcopy(policy.model).requires_grad_(False).eval()
    add_fused_lm_head(frozen, temperature=section.temperature)
    return frozen


@contextmanager
def left_as_it_was(policy: Policy) -> Iterator[None]:
    """TRL puts a forward of its own into the model, and settings of its own into its configuration; and it is chatty."""
    model = causal(policy.model)
    configs = {id(config): config for config in (model.config, model.config.get_text_config())}
    before = [(config, dict(config.__dict__)) for config in configs.values()]
    loud = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(loud)
        for config, settings in before:
            config.__dict__.clear()
            config.__dict__.update(settings)
        for own in ("forward", "model_tags"):
            model.__dict__.pop(own, None)
