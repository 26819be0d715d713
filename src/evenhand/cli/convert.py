"""`evenhand convert`: preference pairs in another trainer's form."""

from pathlib import Path
from typing import Annotated

import typer

from evenhand.cli.options import Json, Kind, Quiet
from evenhand.cli.output import Output


def convert(
    data: Annotated[str, typer.Argument(help="A curated folder, or preference pairs or judgments in any known form.")],
    to: Annotated[str, typer.Option(help="trl, openai or llamafactory.")],
    out: Annotated[Path, typer.Option(help="Folder to write; must be new or empty.")],
    kind: Kind = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write pairs as JSONL for TRL, for OpenAI's preference format or for LLaMA-Factory.

    Example: evenhand convert data/v1 --to trl --out trl-data
    """
    from evenhand.data.convert import convert as write

    output = Output(as_json, quiet)
    found = write(data, to, out, kind)
    rows = ", ".join(f"{name}.jsonl {count} pairs" for name, count in found["rows"].items())
    output.result(found, f"{out}: {rows}; data {found['hash'][:16]}")
