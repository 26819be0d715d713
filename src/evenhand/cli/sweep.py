"""`evenhand sweep`: learning rate, beta and margin on held-out pairs."""

from pathlib import Path
from typing import Annotated

import typer

from evenhand.cli.options import Json, Quiet
from evenhand.cli.output import Output


def sweep(
    recipe: Annotated[Path, typer.Argument(help="A recipe with held-out pairs; its `sweep` section says what to try.")],
    out: Annotated[Path | None, typer.Option(help="Folder of trials and page; left out: sweeps/NAME.")] = None,
    study: Annotated[
        str | None,
        typer.Option(help="Database that several workers share, such as postgresql://...; left out: SQLite in --out."),
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="key.key=value, a recorded change of the recipe.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Try settings and rank them by length-balanced accuracy, under guards; the same command again goes on.

    Without a `sweep` section it goes as SimPO's authors advise: learning rate, then beta, then margin, each with the best
    of the one before. Start it several times, with one --study, for several workers.

    Example: evenhand sweep recipe.yaml --out sweeps/harbor
    """
    from evenhand.evaluation.sweep_page import sweep_words, write_sweep_page
    from evenhand.lifecycle.bench import Telling
    from evenhand.lifecycle.sweep.search import sweep as search
    from evenhand.lifecycle.sweep.space import read_sweep

    output = Output(as_json, quiet)
    wanted = read_sweep(recipe, tuple(changes or ()))
    folder = out or Path("sweeps") / wanted.recipe.name
    found = search(wanted, folder, study, Telling(output.say, output.narrate, output.step))
    page = folder / "sweep.html"
    write_sweep_page(page, found)
    output.result(found | {"page": str(page)}, sweep_words(found, page))
