"""`evenhand verify`: tells whether a folder is still what was written."""

from pathlib import Path
from typing import Annotated

import typer

from evenhand.cli.options import Json, Quiet
from evenhand.cli.output import Output
from evenhand.errors import UserError


def verify(
    folder: Annotated[Path, typer.Argument(help="A curated data set.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check every file of a folder against what it says of itself; exit 1 where anything differs.

    Example: evenhand verify data/v1
    """
    output = Output(as_json, quiet)
    if (folder / "dataset.json").exists():
        kind, (name, problems) = "data set", _data_set(folder)
    else:
        raise UserError(f"{folder}: there is no dataset.json, so this is no data set of evenhand; name its folder.")
    found = {"folder": str(folder), "kind": kind, "hash": name, "passed": not problems, "problems": list(problems)}
    output.result(found, "\n".join(problems) or f"{folder}: the {kind} is what was written; hash {name}")
    if problems:
        raise typer.Exit(1)


def _data_set(folder: Path) -> tuple[str | None, tuple[str, ...]]:
    from evenhand.data.snapshot import check_snapshot

    return check_snapshot(folder)
