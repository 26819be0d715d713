"""`evenhand init`: a commented recipe to start from."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from evenhand.cli.options import Json, Quiet
from evenhand.cli.output import Output
from evenhand.errors import UserError
from evenhand.files import write_whole


def init(
    folder: Annotated[Path, typer.Argument(help="Where to write recipe.yaml.")] = Path("."),
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a commented recipe.yaml to start from; an existing one is never overwritten.

    Example: evenhand init my-run
    """
    target = folder / "recipe.yaml"
    if target.exists():
        raise UserError(f"{target} exists already; choose another folder, or remove it.")
    write_whole(target, (files("evenhand.cli") / "recipe.yaml").read_text(encoding="utf-8"))
    schema = folder / "recipe.schema.json"
    if not schema.exists():
        from evenhand.training.recipe import recipe_schema

        write_whole(schema, recipe_schema())
    Output(as_json, quiet).result(
        {"recipe": str(target), "schema": str(schema)},
        f"wrote {target}; edit it, then: evenhand train {target} --dry-run",
    )
