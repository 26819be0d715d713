"""`evenhand feedback`: judgments and demonstrations that a model makes by written principles."""

from pathlib import Path
from typing import Annotated, Any

import typer

from evenhand.cli.destination import require_file
from evenhand.cli.options import JUDGE_LOG, Json, JudgeLog, JudgeModel, Labelled, Quiet
from evenhand.cli.output import Output
from evenhand.figure import figure

feedback_app = typer.Typer(
    name="feedback",
    help="Judgments and demonstrations that a model makes by the principles of a constitution.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
ConstitutionFile = Annotated[Path, typer.Argument(help="YAML file with `name` and `principles`.")]
Address = Annotated[str, typer.Option("--judge", help="Address of an OpenAI-compatible endpoint.")]
Limit = Annotated[int | None, typer.Option(help="At most so many.")]


@feedback_app.command("compare")
def compare(
    constitution: ConstitutionFile,
    data: Annotated[
        str, typer.Argument(help="Answers to compare: pairs or judgments of any kind, verdicts may be missing.")
    ],
    judge: Address,
    judge_model: JudgeModel = "",
    judge_log: JudgeLog = JUDGE_LOG,
    labelled: Labelled = None,
    unmeasured: Annotated[
        bool, typer.Option("--unmeasured", help="Go on without --labelled; the report says so.")
    ] = False,
    every: Annotated[
        bool, typer.Option("--every", help="Ask by every principle; else by one drawn for each pair.")
    ] = False,
    confidence: Annotated[
        float, typer.Option(help="A reply preferred by less than this share, of 0.5 to 1, is a tie.")
    ] = 0.5,
    limit: Limit = None,
    out: Annotated[Path, typer.Option(help="File of judgments, as JSONL; a report stands beside it.")] = Path(
        "feedback.jsonl"
    ),
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Have a model say which of two answers is better by the constitution, in both orders, as judgments for `curate`.

    The same command again goes on where it stopped: nothing is asked twice.

    Example: evenhand feedback compare constitution.yaml pairs.jsonl --judge http://127.0.0.1:8000/v1 --judge-model M
    --labelled people.jsonl
    """
    from evenhand.errors import UserError
    from evenhand.evaluation.endpoint import Endpoint
    from evenhand.evaluation.judge import EndpointJudge
    from evenhand.lifecycle.feedback import Comparing, by_constitution, compare_replies

    if (labelled is None) != unmeasured:
        raise UserError(
            "give --labelled FILE, pairs that people judged, or --unmeasured to go without; one of the two."
        )
    output = Output(as_json, quiet)
    require_file(out, (data, labelled, constitution))
    asked = EndpointJudge(Endpoint(judge, judge_model), judge_log)
    judged = by_constitution(asked, constitution, every)
    found = compare_replies(Comparing(judged, data, labelled, out, confidence, limit), output.say, output.narrate)
    output.result(found, _compared_words(found))


@feedback_app.command("revise")
def revise(
    constitution: ConstitutionFile,
    data: Annotated[str, typer.Argument(help="Demonstrations, or pairs, whose chosen answers are taken as drafts.")],
    judge: Address,
    judge_model: JudgeModel = "",
    judge_log: JudgeLog = JUDGE_LOG,
    passes: Annotated[int, typer.Option(min=1, help="Critiques and rewritings of each draft.")] = 1,
    keep: Annotated[
        str, typer.Option(help="demonstration: the last version, for SFT; pair: it over its draft, as a judgment.")
    ] = "demonstration",
    max_tokens: Annotated[int, typer.Option(min=1, help="Of a critique, and of a rewritten reply.")] = 512,
    limit: Limit = None,
    out: Annotated[Path, typer.Option(help="File of rows, as JSONL; a report stands beside it.")] = Path(
        "revised.jsonl"
    ),
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Have a model criticise answers by the constitution and write them again, as demonstrations to be imitated.

    Drafts of your own model come from `evenhand sample --keep best`. The same command again goes on where it stopped.

    Example: evenhand feedback revise constitution.yaml drafts.jsonl --judge http://127.0.0.1:8000/v1 --judge-model M
    """
    from evenhand.evaluation.endpoint import Endpoint
    from evenhand.lifecycle.feedback import Revising, revise_replies
    from evenhand.online.constitution import read_constitution
    from evenhand.online.revision import Reviser

    output = Output(as_json, quiet)
    require_file(out, (data, constitution))
    endpoint = Endpoint(judge, judge_model, max_tokens=max_tokens)
    reviser = Reviser(endpoint, judge_log, read_constitution(constitution), passes)
    found = revise_replies(Revising(reviser, data, out, keep, limit), output.say, output.narrate)
    output.result(found, _revised_words(found))


def _compared_words(found: dict[str, Any]) -> str:
    """What was asked and said, how far the judge may be believed, and the next command."""
    verdicts = ", ".join(f"{name} {count}" for name, count in sorted(found["verdicts"].items()))
    lines = [f"{found['out']}: {found['rows']} judgments of {found['asked']} pairs ({verdicts})"]
    lines += [f"no verdict, {why}: {count}" for why, count in found["unjudged"].items()]
    agreement = figure(found["agreement"]).words() if found["agreement"] else found["unmeasured"]
    lines.append(f"agreement with people: {agreement}")
    lines += [f"  by {name}: {figure(value).words()}" for name, value in found["agreement_by_principle"].items()]
    lines.append(f"shown first wins: {figure(found['position_bias']).words()}")
    lines.append(f"same verdict in both orders: {figure(found['consistent']).words()}")
    lines.append(f"pairs with probabilities from the endpoint: {found['probabilities']} of {found['asked']}")
    return "\n".join([*lines, f"next: evenhand curate {found['out']} --out data/feedback"])


def _revised_words(found: dict[str, Any]) -> str:
    by = ", ".join(f"{name} {count}" for name, count in found["principles"].items())
    lines = [
        f"{found['out']}: {found['rows']} rows of {found['drafts']} drafts ({found['unchanged']} came back unchanged)"
    ]
    lines += [f"lost, {why}: {count}" for why, count in found["lost"].items()]
    return "\n".join([*lines, f"passes by principle: {by}"])
