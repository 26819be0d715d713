"""`evenhand score`: per-pair log-probabilities as Parquet."""

from pathlib import Path
from typing import Annotated

import typer

from evenhand.cli.destination import require_file
from evenhand.cli.options import Dtype, Json, Kind, MaxTokens, Quiet, TemplateName
from evenhand.cli.output import Output


def score(
    model: Annotated[
        str, typer.Argument(help="Run folder, model folder, adapter folder, hub id or builtin:smollm2-135m.")
    ],
    data: Annotated[str, typer.Argument(help="Preference pairs or judgments.")],
    out: Annotated[Path, typer.Option(help="Parquet file; refused rows go beside it.")] = Path("rows.parquet"),
    kind: Kind = None,
    max_tokens: MaxTokens = None,
    template: TemplateName = None,
    dtype: Dtype = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the log-probabilities of every pair's answers under a model.

    Example: evenhand score runs/harbor held_out.jsonl --out rows.parquet
    """
    from evenhand.lifecycle.appraisal import Asked, appraise, write_rows

    output = Output(as_json, quiet)
    require_file(out, (data, model))
    asked = Asked(model, data, kind, max_tokens, template, dtype)
    appraised = appraise(asked, output.say, output.narrate)
    refused = write_rows(out, appraised)
    output.result(
        {"rows": str(out), "pairs": len(appraised.scored), "refused": appraised.refused, "refusals": str(refused)},
        f"{len(appraised.scored)} pairs scored: {out}; refused rows: {refused} ({sum(appraised.refused.values())})",
    )
