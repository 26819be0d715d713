"""`evenhand run`: from judgments to a compared model, stage by stage."""

from pathlib import Path
from typing import Annotated

import typer

from evenhand.cli.options import Json, Quiet
from evenhand.cli.output import Output


def run(
    recipe: Annotated[
        Path, typer.Argument(help="A SimPO recipe with `data.source`, a share to hold out, and `stages`.")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder of everything; left out: runs/NAME.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Audit, curate, fine-tune and sweep if asked, train SimPO, train DPO on the same pairs, evaluate, compare, report.

    The recipe's `stages` section says what happens beside SimPO, such as `stages: {sft: {learning_rate: 1.0e-4}, sweep: {}, dpo:
    {beta: 0.1, references: [adapter_off, cached]}}`. A stage whose inputs are unchanged is skipped.

    Example: evenhand run recipe.yaml --out harbor
    """
    from evenhand.lifecycle.compared import words
    from evenhand.lifecycle.pipeline import Pipeline, run_pipeline
    from evenhand.lifecycle.plan import read_plan

    output = Output(as_json, quiet)
    plan = read_plan(recipe)
    folder = out or Path("runs") / plan.recipe.name
    found = run_pipeline(Pipeline(plan, folder, output.say, output.narrate))
    output.result(found, words(found, Path(found["page"])))
