"""A method that draws replies as a run: prompts become tasks, rewards are opened, and the policy practises."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from evenhand.data.schema import PreferencePair
from evenhand.data.sources import source_rows
from evenhand.errors import DataError, RecipeError, UserError
from evenhand.evaluation.generate import Generation, Sampling, Serving
from evenhand.lifecycle.rewarding import Say, columns_asked, open_rewards
from evenhand.model.forward import Policy, causal
from evenhand.model.modes import prompt_encoder
from evenhand.online.learner import Learner
from evenhand.online.ppo import Clips
from evenhand.online.practice import PPO, Practice, practise
from evenhand.online.rewards import Reward, worth
from evenhand.online.rollout import Draw, Task, answers_to
from evenhand.training.determinism import determinism
from evenhand.training.identity import MACHINE, policy_identity, refuse_unknown
from evenhand.training.loop import Outcome
from evenhand.training.material import Material, Texts
from evenhand.training.practice_sections import DrawingSection, GroupSection, PPOSection
from evenhand.training.ranks import Ranks
from evenhand.training.recipe import Recipe
from evenhand.training.train import Place, threads_kept, trackers

# The right answer to a prompt where the data has one: what rewards may compare a reply with.
REFERENCE = "reference"
_SHOWN = (
    *("reward", "kl", "entropy", "explained_variance", "clip_fraction", "value_loss", "policy_loss", "policy_kl"),
    *("loss", "token_kl", "equal_groups", "ended", "reply_tokens"),
)


@dataclass(frozen=True, slots=True)
class Exercise:
    """What a method that draws replies is given: tasks to practise on, tasks held out, and rewards."""

    tasks: tuple[Task, ...]
    held_out: tuple[Task, ...]
    rewards: tuple[Reward, ...]

    def rewarded(self, generation: Generation) -> Generation:
        """The replies with what the rewards say of them; raises BrokenRewardError."""
        columns = {task.prompt: task.columns for task in self.held_out}
        asked = [Task(reply.prompt, columns.get(reply.prompt, {})) for reply in generation.replies]
        answered = answers_to(asked, [reply.text for reply in generation.replies])
        told = zip(generation.replies, worth(self.rewards, answered))
        return replace(generation, replies=tuple(replace(reply, reward=reward) for reply, reward in told))


def exercise_of(
    recipe: Recipe, texts: Texts, material: Material, tokenizer: PreTrainedTokenizerBase, say: Say
) -> Exercise | None:
    """The exercise that a recipe asks for, None where no reply is rewarded.

    Raises DataError where no prompt is left, and what opening rewards raises.
    """
    if not recipe.rewards:
        return None
    if isinstance(recipe.objective, GroupSection):
        group_practice()
    rewards = open_rewards(recipe.rewards, tokenizer, say)
    asked = [name for name in columns_asked(recipe.rewards) if name != REFERENCE]
    data = recipe.data
    used = {(pair.row, pair.id) for pair in material.train}
    train = [pair for pair in texts.train if (pair.row, pair.id) in used]
    other = data.validation if isinstance(data.validation, str) else data.source
    tasks = tasks_of_pairs(train, data.source or data.train, asked)
    return Exercise(tasks, tasks_of_pairs(material.held_out, other, asked), rewards)


def tasks_of_pairs(pairs: Sequence[PreferencePair], source: str | None, names: Sequence[str]) -> tuple[Task, ...]:
    """Each prompt once, with the chosen answer as its `reference`, and the named columns of its row in `source`.

    Raises DataError where rows have no such column, or are of curated data, which keeps none.
    """
    rows = _columns(source, names) if names and pairs else {}
    tasks: dict[Any, Task] = {}
    for pair in pairs:
        columns = {REFERENCE: pair.chosen or None, **{name: rows.get(pair.row, {}).get(name) for name in names}}
        tasks.setdefault(pair.prompt, Task(pair.prompt, columns, pair.family or pair.group))
    return tuple(tasks.values())


def _columns(source: str | None, names: Sequence[str]) -> Mapping[int, dict[str, Any]]:
    if source is None or (Path(source) / "dataset.json").exists():
        raise DataError(
            f"{source}: a reward asks for the column `{names[0]}`, which curated data does not keep; give the rows themselves as "
            "`data.source`, or use the column `reference`, the chosen answer."
        )
    rows = {i: row.fields or {} for i, row in enumerate(source_rows(source, Counter()))}
    for name in names:
        if not any(row.get(name) is not None for row in rows.values()):
            known = sorted({key for row in rows.values() for key in row})
            raise DataError(f"{source}: a reward asks for the column `{name}`; there are {', '.join(known[:20])}.")
    return rows


def practise_recipe(
    policy: Policy,
    recipe: Recipe,
    given: tuple[Exercise, PreTrainedTokenizerBase, Ranks],
    place: Place,
    tell: Callable[[dict[str, Any], int], None],
) -> Outcome:
    """Train the policy in `place` by the recipe's method; it resumes from the newest checkpoint by itself.

    Raises RecipeError for several ranks, for another run, and what practising raises.
    """
    section, (exercise, tokenizer, ranks) = recipe.objective, given
    assert isinstance(section, DrawingSection)
    if ranks.size > 1:
        raise RecipeError(
            f"{section.name} trains in one process and {ranks.size} were started; start it without torchrun."
        )
    feed, stops = prompt_encoder(tokenizer, recipe.form)
    serving = Serving(tokenizer, feed, stops)
    learner = Learner(policy) if isinstance(section, PPOSection) else policy
    trl = {"trl": version("trl")} if isinstance(section, GroupSection) else {}
    identity = {**place.identity, **policy_identity(learner, "online"), **trl}
    refuse_unknown(place.allowed, [*identity, *MACHINE])
    with (
        threads_kept(),
        determinism(recipe.training.deterministic, policy.device),
        trackers(recipe.training.report_to, place, ranks.first) as log,
    ):

        def report(record: dict[str, Any], steps: int) -> None:
            shown = {f"{section.name}/{name}": record[name] for name in _SHOWN if record.get(name) is not None}
            log(shown, record["step"])
            tell(record, steps)

        tasks = fitting(exercise.tasks, policy, serving, section.max_new_tokens)
        where = (recipe.training, place.folder, identity, place.allowed, report, ranks)
        if isinstance(learner, Learner):
            assert isinstance(section, PPOSection)
            steps = practise(learner, Practice(tasks, exercise.rewards, ppo_of(section), serving, *where))
        else:
            assert isinstance(section, GroupSection)
            steps = group_practice()(policy, Practice(tasks, exercise.rewards, section, serving, *where))
    return Outcome(steps, steps, False)


def group_practice() -> Callable[[Policy, Practice[GroupSection]], int]:
    """GRPO and RLOO; raises UserError where TRL, which has them, is not installed."""
    try:
        from evenhand.online.groups import practise_groups  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise UserError(
            f"grpo and rloo are trained by TRL, which cannot be imported here ({error}); install it with "
            "`pip install 'evenhand[rl]'`."
        ) from error
    return practise_groups


def ppo_of(section: PPOSection) -> PPO:
    """The section's numbers as the loop takes them."""
    return PPO(
        draw=Draw(section.replies, section.max_new_tokens, Sampling()),
        kl=section.kl,
        epochs=section.passes,
        minibatches=section.minibatches,
        clips=Clips(section.clip, section.value_clip, section.value_weight),
        discounts=(section.discount, section.lam),
        whiten_rewards=section.whiten_rewards,
        unfinished=section.unfinished,
    )


def fitting(tasks: Sequence[Task], policy: Policy, serving: Serving, max_new_tokens: int) -> tuple[Task, ...]:
    """The tasks that leave the model room for a reply; raises DataError where none does."""
    positions = getattr(causal(policy.model).config.get_text_config(), "max_position_embeddings", None) or 1 << 30
    kept = tuple(task for task in tasks if len(serving.prompt_tokens(task.prompt)) + max_new_tokens <= positions)
    if not kept:
        raise DataError(
            f"none of {len(tasks)} prompts leaves room for {max_new_tokens} new tokens among the model's {positions} positions; "
            "give shorter prompts, or a smaller `objective.max_new_tokens`."
        )
    return kept
