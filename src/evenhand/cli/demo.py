"""`evenhand demo`: the whole way on the built-in data and model."""

from pathlib import Path
from typing import Annotated

import typer

from evenhand.cli.options import Json, Quiet
from evenhand.cli.output import Output


def demo(
    out: Annotated[Path, typer.Option(help="Folder of the demo.")] = Path("harbor-demo"),
    quick: Annotated[
        bool, typer.Option("--quick", help="A few steps on a few pairs: shows that it works, proves nothing.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make Harbor Support's judgments, curate them, align SmolLM2-135M with SimPO, and report whether it got better.

    Example: evenhand demo
    """
    from evenhand.lifecycle.bench import Telling
    from evenhand.lifecycle.demonstration import demonstrate
    from evenhand.lifecycle.summary import summary, summary_words

    output = Output(as_json, quiet)
    folder = demonstrate(out, quick, Telling(output.say, output.narrate, output.step))
    found = summary(folder)
    output.result(found, summary_words(found))
