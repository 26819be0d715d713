"""`evenhand evaluate`: how often a model agrees with held-out preferences, and what it says."""

from typing import Annotated

import typer

from evenhand.cli.options import Dtype, Json, Kind, MaxTokens, Quiet, TemplateName
from evenhand.cli.output import Output


def evaluate(
    model: Annotated[
        str, typer.Argument(help="Run folder, model folder, adapter folder, hub id or builtin:smollm2-135m.")
    ],
    data: Annotated[str, typer.Argument(help="Held-out preference pairs or judgments.")],
    prompts: Annotated[int, typer.Option(help="Distinct prompts to answer; 0 for none.")] = 32,
    kind: Kind = None,
    max_tokens: MaxTokens = None,
    template: TemplateName = None,
    dtype: Dtype = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Pairwise accuracy by length and category, length bias, and greedy replies, each with n and a 95 % interval.

    Example: evenhand evaluate runs/harbor held_out.jsonl
    """
    from evenhand.lifecycle.appraisal import Asked, evaluate_model
    from evenhand.lifecycle.summary import evaluation_words

    output = Output(as_json, quiet)
    asked = Asked(model, data, kind, max_tokens, template, dtype)
    found = evaluate_model(asked, prompts, output.say, output.narrate)
    output.result(found, evaluation_words(found))
