"""`evenhand verify`: whether a folder is what was shipped."""

from pathlib import Path
from typing import Annotated

import typer

from evenhand.cli.options import Json, Quiet
from evenhand.cli.output import Output


def verify(
    folder: Annotated[Path, typer.Argument(help="A folder that `evenhand export` wrote.")],
    key: Annotated[Path | None, typer.Option(help="Public key (PEM) that must have signed it.")] = None,
    serving: Annotated[
        Path | None, typer.Option(help="Model folder of a server, whose template and tokens must be the same.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find every file that was added, removed, changed, renamed or linked since the export; exit 1 if there is one.

    With --serving, also compare what a server feeds and where it stops.

    Example: evenhand verify ship/harbor
    """
    from evenhand.lifecycle.manifest import problems, read_manifest
    from evenhand.lifecycle.signature import signature_problems

    output = Output(as_json, quiet)
    found = problems(folder)
    if not found:
        found = signature_problems(folder, key)
    if not found and serving is not None:
        from evenhand.lifecycle.parity import serving_problems

        found = serving_problems(folder, serving)
    signed = bool(read_manifest(folder).get("signature")) if not found else None
    lines = [f"{problem.path}: {problem.what}" for problem in found] or [
        f"{folder} is what was shipped" + ("; signed" if signed else "; not signed")
    ]
    shape = {"folder": str(folder), "intact": not found, "problems": [p.json() for p in found], "signed": signed}
    output.result(shape, "\n".join(lines))
    if found:
        raise typer.Exit(1)
