"""`evenhand compare`: models side by side on the same held-out rows, with a verdict."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from evenhand.cli.destination import require_page
from evenhand.cli.options import JUDGE_LOG, Json, Judge, JudgeLog, JudgeModel, Quiet
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
    judge: Judge = None,
    judge_model: JudgeModel = "",
    judge_log: JudgeLog = JUDGE_LOG,
    votes: Annotated[Path | None, typer.Option(help="Votes of `evenhand vote`.")] = None,
    drift: Annotated[
        bool, typer.Option("--drift", help="Measure how far runs have moved from their start; kept for the next time.")
    ] = False,
    feedback: Annotated[
        str | None, typer.Option(help="Events of `evenhand monitor`: its folder, or a database's URL.")
    ] = None,
    tenant: Annotated[str, typer.Option(help="Whose events.")] = "default",
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
    from evenhand.lifecycle.judging import judged_by, judged_by_votes, open_judge
    from evenhand.service.outcomes import open_feedback

    output = Output(as_json, quiet)
    if by and data is None:
        raise UserError("--by needs the file that has the column; add --data FILE.")
    if out is not None:
        require_page(out, (data, votes, *models))
    given = entrants(models, data, output.say, output.narrate)
    if drift:
        given = [entrant.with_drift(output.say, output.narrate) for entrant in given]
    if feedback is not None:
        given = _with_production(given, dict.fromkeys(models), open_feedback(feedback), tenant)
    judged = []
    asked = open_judge(judge, judge_model, judge_log, output.say) if judge else None
    for candidate in given[1:]:
        if asked is not None:
            judged.append(judged_by(asked, given[0], candidate, output.narrate))
        if votes is not None:
            judged.append(judged_by_votes(votes, given[0], candidate))
    found = compare_entrants(given, (data, by) if data and by else None, judged)
    if out is not None:
        write_comparison(out, found.told, found.value)
        output.say(f"wrote {out} and {out.with_suffix('.json')}")
    output.result(found.value, words(found.value, out))


def _with_production(given: list[Any], names: Iterable[str], store: Any, tenant: str) -> list[Any]:
    """Each with what became of its drafts; events name a model by its name here, or by its manifest's hash."""
    from evenhand.lifecycle.manifest import NAME, manifest_hash
    from evenhand.service.outcomes import production_of

    try:
        found = []
        for entrant, name in zip(given, names):
            shipped = {manifest_hash(Path(name))} if (Path(name) / NAME).exists() else set()
            production = production_of(store, tenant, {name, entrant.name, *shipped})
            found.append(replace(entrant, production=production))
        return found
    finally:
        store.database.close()
