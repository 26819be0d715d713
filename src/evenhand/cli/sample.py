"""`evenhand sample`: answers of the current model, scored, as judgments to learn from."""

from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer

from evenhand.cli.destination import require_file
from evenhand.cli.options import JUDGE_LOG, Json, Judge, JudgeLog, JudgeModel, Labelled, Quiet
from evenhand.cli.output import Output
from evenhand.errors import UserError
from evenhand.figure import figure

Rewards = Annotated[
    list[str] | None,
    typer.Option(help="A reward run, or file.py:function; WEIGHT*NAME weighs it; given again, they are added."),
]
Principles = Annotated[Path | None, typer.Option(help="YAML file of principles, by one of which the judge compares.")]
Kept = Annotated[
    str, typer.Option(help="pair: best against worst; ranking: all with scores; best: best-of-n demonstrations.")
]
Unmeasured = Annotated[bool, typer.Option("--unmeasured", help="Use the judge without --labelled; the report says so.")]
HeldOut = Annotated[str | None, typer.Option(help="Data whose prompts are left out too, and those nearly like them.")]


def sample(
    model: Annotated[str, typer.Argument(help="Run folder, export, model folder or hub id: the model that answers.")],
    prompts: Annotated[str, typer.Argument(help="Prompts, or data of any kind; of curated data the training side.")],
    out: Annotated[Path, typer.Option(help="File of judgments, as JSONL.")] = Path("judgments.jsonl"),
    n: Annotated[int, typer.Option("--n", help="Answers to each prompt.")] = 4,
    reward: Rewards = None,
    judge: Judge = None,
    judge_model: JudgeModel = "",
    judge_log: JudgeLog = JUDGE_LOG,
    constitution: Principles = None,
    labelled: Labelled = None,
    unmeasured: Unmeasured = False,
    keep: Kept = "pair",
    held_out: HeldOut = None,
    limit: Annotated[int | None, typer.Option(help="Answer at most so many prompts.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="An answer that has not ended by then is not used.")] = 256,
    temperature: Annotated[float, typer.Option(help="Of drawing.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Of drawing.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of drawing.")] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw n answers per prompt from a model, score them, and keep best and worst as judgments that `curate` takes.

    Prompts that the model's run held out, and those nearly like them, are never answered. The same command again goes on
    where it stopped.

    Example: evenhand sample runs/simpo data/v1 --n 4 --reward runs/reward --out on-policy.jsonl
    """
    from evenhand.evaluation.generate import Sampling
    from evenhand.lifecycle import sampling
    from evenhand.lifecycle.feedback import UNMEASURED, by_constitution, measured
    from evenhand.lifecycle.judging import open_judge
    from evenhand.lifecycle.rewarding import part_of
    from evenhand.online.selection import Keep

    output = Output(as_json, quiet)
    require_file(out, (prompts, held_out, labelled, constitution))
    _refuse_other(keep, get_args(Keep))
    _refuse_judging(judge, constitution, labelled, unmeasured)
    opened = open_judge(judge, judge_model, judge_log, output.say) if judge else None
    judged = by_constitution(opened, constitution) if opened and constitution else opened
    order = sampling.Order(
        model=model,
        prompts=prompts,
        out=out,
        n=n,
        rewards=tuple(part_of(text) for text in reward or ()),
        judge=judged,
        keep=cast(Keep, keep),
        held_out=held_out,
        limit=limit,
        max_new_tokens=max_new_tokens,
        sampling=Sampling(temperature, top_p),
        seed=seed,
    )
    told = measured(judged, labelled, output.narrate).json() if judged and labelled else None
    about = {"judge": told, "unmeasured": UNMEASURED if unmeasured else None}
    found = sampling.sample(order, output.say, output.narrate) | about
    output.result(found, _words(found, n))


def _refuse_other(keep: str, known: tuple[str, ...]) -> None:
    if keep not in known:
        raise UserError(f"--keep {keep!r} is none of {', '.join(known)}.")


def _refuse_judging(judge: str | None, constitution: Path | None, labelled: str | None, unmeasured: bool) -> None:
    """Refuse options of a judge without one, and a judge of which nothing is said of how it is measured. Raises UserError."""
    if not judge and (constitution or labelled or unmeasured):
        raise UserError("--constitution, --labelled and --unmeasured are of a --judge; give one, or leave them out.")
    if judge and (labelled is None) != unmeasured:
        raise UserError(
            "give --labelled FILE, pairs that people judged, or --unmeasured to use the judge without; one of the two."
        )


def _words(found: dict[str, Any], n: int) -> str:
    """What was drawn, what choosing gained, and the next command."""
    left_out = ", ".join(f"{name} {count}" for name, count in found["left_out"].items())
    told = (
        f"{found['out']}: {found['rows']} rows of {found['prompts']} prompts ({found['answers']} answers, {found['ended']:.0%} ended; "
        f"left out: {left_out})"
    )
    lines = [f"without a score, {why}: {count}" for why, count in found["unscored"].items()]
    if found["gain"]:
        figures = (("score of an answer", "mean_score"), (f"score of the best of {n}", "best_of_n"), ("gain", "gain"))
        lines += [f"{name}: {figure(found[key]).words()}" for name, key in figures]
    lines.append(f"gain {found['gain_note']}" if not found["gain"] else f"about the gain: {found['gain_note']}")
    if found["judge"] or found["unmeasured"]:
        agreement = figure(found["judge"]["agreement"]).words() if found["judge"] else found["unmeasured"]
        lines.append(f"agreement of the judge with people: {agreement}")
    return "\n".join([told, *lines, f"next: evenhand curate {found['out']} --out data/on-policy"])
