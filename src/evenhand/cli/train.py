"""`evenhand train`: one recipe, one model."""

from pathlib import Path
from typing import Annotated

import typer

from evenhand.cli.options import Json, Quiet
from evenhand.cli.output import Output


def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe: YAML, as `evenhand init` writes it.")],
    out: Annotated[Path | None, typer.Option(help="Run folder; left out: runs/NAME.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="key.key=value, a recorded change of the recipe.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count, estimate, show one pair, and train nothing.")
    ] = False,
    allowed: Annotated[
        list[str] | None,
        typer.Option("--allow-change", metavar="NAME", help="Go on although this differs from what the run had."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Go on where a setting is known to ruin models.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train one model from a recipe; the same command again goes on where it stopped.

    Example: evenhand train recipe.yaml --out runs/harbor

    On many processes: torchrun --nproc-per-node 8 -m evenhand train recipe.yaml
    """
    from evenhand.lifecycle.align import align
    from evenhand.lifecycle.bench import Telling
    from evenhand.lifecycle.rehearsal import rehearse
    from evenhand.lifecycle.summary import summary, summary_words
    from evenhand.training.ranks import launched_ranks
    from evenhand.training.recipe import advice, read_recipe, refuse_risk

    first = launched_ranks().first
    output = Output(as_json, quiet or not first)
    checked = read_recipe(recipe, tuple(changes or ()))
    if not force:
        refuse_risk(checked)
    for sentence in advice(checked):
        output.say(sentence)
    tell = Telling(output.say, output.narrate, output.step)
    folder = out or Path("runs") / checked.name
    if dry_run:
        rehearsal = rehearse(checked, tell)
        output.result(rehearsal.json(), rehearsal.words())
        return
    align(checked, folder, tell, tuple(allowed or ()))
    if first:
        found = summary(folder)
        output.result(found, summary_words(found))
