"""What a run's model scores and says before and after training, kept in its folder, and the report of both."""

import platform
from functools import partial
from pathlib import Path

import torch
import transformers

from evenhand.evaluation.difference import difference_of_replies
from evenhand.evaluation.evaluate import Asking, Narrator, answer
from evenhand.evaluation.generate import Generation
from evenhand.evaluation.preference import PairTraits
from evenhand.evaluation.replies import read_replies, write_replies
from evenhand.evaluation.report import DataFacts, Evaluated, Report, write_report
from evenhand.evaluation.verdict import verdict_on_rewards
from evenhand.files import write_json
from evenhand.lifecycle.bench import Bench
from evenhand.model.forward import Policy, causal
from evenhand.model.score import score_pairs
from evenhand.model.scores import ScoredPairs
from evenhand.training.journal import journal_of, read_journal
from evenhand.training.loop import Outcome


def rows_file(bench: Bench, step: int) -> Path:
    """Where the scores of a step are kept."""
    return bench.folder / "rows" / f"step-{step:06d}.parquet"


def evaluated(bench: Bench, step: int, outcome: Outcome | None) -> Evaluated:
    """Scores and replies at `step`, from the run's files where they are there already."""
    word = "after" if outcome else "before"

    def narrate(what: str, done: int, total: int) -> None:
        bench.tell.narrate(f"{what} {word} training", done, total)

    rows = rows_file(bench, step)
    if rows.exists():
        scored = ScoredPairs.read(rows)
    else:
        scored = score_pairs(bench.policy, bench.held_out.encoded, report=partial(narrate, "scoring"))
        scored.write(rows)
    return Evaluated.of(scored, PairTraits.of(scored, bench.held_out.texts), replies_at(bench, word, narrate))


def replies_at(bench: Bench, word: str, narrate: Narrator) -> Generation | None:
    """Replies to held-out prompts, with their rewards where there are some; from the run's file where it is there."""
    settings = bench.recipe.evaluation
    if not settings.prompts or bench.policy.gives_rewards:
        return None
    file = bench.folder / "rows" / f"replies-{word}.json"
    if not file.exists():
        found = answer(
            bench.policy, bench.tokenizer, bench.held_out, Asking(settings.prompts, settings.max_new_tokens, narrate)
        )
        write_replies(file, bench.exercise.rewarded(found) if bench.exercise else found)
    return read_replies(file)


def write_rewards(bench: Bench) -> str:
    """The rewards of replies to held-out prompts that have no answers to compare: `rewards.json`, and a sentence."""
    before, after = (read_replies(bench.folder / "rows" / f"replies-{word}.json") for word in ("before", "after"))
    differences = difference_of_replies(before, after)
    told = {name: figure.json() for name, figure in differences.items()}
    write_json(bench.folder / "rewards.json", {"before": before.json(), "after": after.json(), "differences": told})
    return verdict_on_rewards(before.reward, after.reward, differences).sentence


def write_run_report(bench: Bench, before: Evaluated, after: Evaluated, outcome: Outcome) -> None:
    """The page of the run, and its figures."""
    material = bench.material
    report = Report(
        name=bench.recipe.name,
        before=before,
        after=after,
        data=DataFacts(material.hash, material.rows_in, material.rows_used, material.refused),
        recipe=bench.recipe.resolved(),
        journal=read_journal(journal_of(bench.folder)),
        machine=machine(bench.policy) | {"step kept": _step_kept(bench, outcome)},
        traits=PairTraits.of(before.scored, material.held_out),
    )
    write_report(bench.folder, report)


def _step_kept(bench: Bench, outcome: Outcome) -> str:
    """Which step's weights are reported, and how they were chosen: a choice made on the same pairs flatters a little."""
    validated = sum("validation" in record for record in read_journal(journal_of(bench.folder)))
    how = f", the lowest loss of {validated} validations on these same pairs" if validated > 1 else ""
    return f"{outcome.model_step} of {outcome.steps}{how}"


def machine(policy: Policy) -> dict[str, str]:
    """What the run ran on, for the report."""
    gpu = torch.cuda.get_device_name() if policy.device.type == "cuda" else None
    return {
        "device": gpu or f"CPU, {torch.get_num_threads()} threads, {platform.machine()}",
        "dtype": str(next(policy.model.parameters()).dtype).removeprefix("torch."),
        "engine": "padded rows" if policy.padded_because else "forest",
        "architecture": type(causal(policy.model)).__name__,
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
    }
