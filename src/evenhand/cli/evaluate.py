"""`evenhand evaluate`: how often a model agrees with held-out preferences, and what it says."""

from typing import Annotated

import typer

from evenhand.cli.options import (
    JUDGE_LOG,
    Dtype,
    Json,
    Judge,
    JudgeLog,
    JudgeModel,
    Kind,
    MaxTokens,
    Quiet,
    TemplateName,
)
from evenhand.cli.output import Output


def evaluate(
    model: Annotated[
        str, typer.Argument(help="Run folder, model folder, adapter folder, hub id or builtin:smollm2-135m.")
    ],
    data: Annotated[str, typer.Argument(help="Held-out preference pairs or judgments.")],
    prompts: Annotated[int, typer.Option(help="Distinct prompts to answer; 0 for none.")] = 32,
    by: Annotated[list[str] | None, typer.Option(help="A column of DATA to slice by; may be given again.")] = None,
    train: Annotated[
        str | None,
        typer.Option(
            help="Training pairs, or curated data's own: how much better the model does on them than on DATA."
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(help="The model before training, to measure drift from; an adapter brings its own."),
    ] = None,
    judge: Judge = None,
    judge_model: JudgeModel = "",
    judge_log: JudgeLog = JUDGE_LOG,
    kind: Kind = None,
    max_tokens: MaxTokens = None,
    template: TemplateName = None,
    dtype: Dtype = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Pairwise accuracy by length and category, length bias, calibration, paraphrases, drift, and greedy replies.

    Each with n and a 95 % interval.

    Example: evenhand evaluate runs/harbor held_out.jsonl --train train.jsonl --by region
    """
    from evenhand.lifecycle.appraisal import Asked
    from evenhand.lifecycle.examination import Wanted, examine
    from evenhand.lifecycle.judging import open_judge
    from evenhand.lifecycle.summary import evaluation_words

    output = Output(as_json, quiet)
    asked = Asked(model, data, kind, max_tokens, template, dtype)
    asks = open_judge(judge, judge_model, judge_log, output.say) if judge else None
    wanted = Wanted(prompts, tuple(by or ()), train, start, asks)
    found = examine(asked, wanted, output.say, output.narrate).json()
    output.result(found, evaluation_words(found))
