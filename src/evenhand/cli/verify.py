"""`evenhand verify`: whether a folder is still what was written: curated data, or an exported model."""

from pathlib import Path
from typing import Annotated

import typer

from evenhand.cli.options import Json, Quiet
from evenhand.cli.output import Output
from evenhand.errors import UserError


def verify(
    folder: Annotated[Path, typer.Argument(help="A folder that `evenhand curate` or `evenhand export` wrote.")],
    key: Annotated[Path | None, typer.Option(help="Public key (PEM) that must have signed an export.")] = None,
    serving: Annotated[
        Path | None, typer.Option(help="Model folder of a server, whose template and tokens must be the same.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find every file that was added, removed, changed, renamed or linked since it was written; exit 1 if there is one.

    With --serving, also compare what a server feeds and where it stops.

    Example: evenhand verify ship/harbor
    """
    output = Output(as_json, quiet)
    if (folder / "dataset.json").exists():
        if key is not None or serving is not None:
            raise UserError(f"{folder} holds data, and --key and --serving are for an exported model; leave them out.")
        kind, (found, lines) = "data set", _data_set(folder)
    else:
        kind, (found, lines) = "export", _export(folder, key, serving)
    output.result({"folder": str(folder), "kind": kind, **found}, "\n".join(lines))
    if not found["passed"]:
        raise typer.Exit(1)


def _data_set(folder: Path) -> tuple[dict[str, object], list[str]]:
    from evenhand.data.snapshot import check_snapshot

    name, problems = check_snapshot(folder)
    lines = list(problems) or [f"{folder}: the data set is what was written; hash {name}"]
    return {"hash": name, "passed": not problems, "problems": list(problems)}, lines


def _export(folder: Path, key: Path | None, serving: Path | None) -> tuple[dict[str, object], list[str]]:
    from evenhand.lifecycle.manifest import problems, read_manifest
    from evenhand.lifecycle.signature import signature_problems

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
    return {"passed": not found, "problems": [problem.json() for problem in found], "signed": signed}, lines
