"""`evenhand compare`: models side by side on the same held-out rows, with a verdict."""

from pathlib import Path
from typing import Annotated

import typer

from evenhand.cli.options import Json, Quiet
from evenhand.cli.output import Output
from evenhand.errors import UserError


def compare(
    models: Annotated[
        list[str],
        typer.Argument(help="Run folders, exports, model folders or Parquet files of scores; first the baseline."),
    ],
    data: Annotated[
        str | None, typer.Option(help="Held-out pairs to score models on; left out: the scores that runs kept.")
    ] = None,
    by: Annotated[list[str] | None, typer.Option(help="A column of --data to slice by; may be given again.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the comparison as an HTML page, its JSON beside it.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say whether B is better than A, worse, or cannot be told apart, from paired differences on the same rows.

    Differences are B minus A. A model trained against a reference is read by its implicit reward and by mean
    log-probability, and `better` is said only where both agree.

    Example: evenhand compare runs/dpo runs/simpo --out compare.html
    """
    from evenhand.evaluation.comparison_page import write_comparison
    from evenhand.lifecycle.compared import compare_entrants, words
    from evenhand.lifecycle.entrant import entrants

    output = Output(as_json, quiet)
    if by and data is None:
        raise UserError("--by needs the file that has the column; add --data FILE.")
    found = compare_entrants(entrants(models, data, output.say, output.narrate), (data, by) if data and by else None)
    if out is not None:
        write_comparison(out, found.told, found.value)
        output.say(f"wrote {out} and {out.with_suffix('.json')}")
    output.result(found.value, words(found.value, out))
