"""`evenhand monitor trace`: which events a data set and a model rest on."""

from pathlib import Path
from typing import Annotated

import typer

from evenhand.cli.options import Json, Quiet
from evenhand.cli.output import Output


def trace(
    event: Annotated[str | None, typer.Argument(help="An event's id: the pairs that rest on it are named.")] = None,
    collected: Annotated[Path, typer.Option(help="What `evenhand collect` wrote.")] = Path("data/collected"),
    data: Annotated[Path | None, typer.Option(help="What `evenhand curate` made of it.")] = None,
    model: Annotated[Path | None, typer.Option(help="An export that was trained on the data.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Follow pairs back to their events; exit 1 where some rest on erased events, or hashes do not fit.

    Example: evenhand monitor trace --collected data/collected --data data/v2 --model ship/harbor-2
    """
    from evenhand.service.flywheel.lineage import trace as follow

    found = follow(collected, data, model)
    answer = found.json(event)
    lines = [f"{answer['traced']} of {answer['pairs']} pairs are traced to their events"]
    if event is not None:
        lines.append(f"{event} is behind {', '.join(answer['rests_on_it']) or 'no pair'}")
    Output(as_json, quiet).result(answer, "\n".join([*lines, *found.problems]))
    if found.problems:
        raise typer.Exit(1)
