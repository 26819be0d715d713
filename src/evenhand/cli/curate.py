"""`evenhand curate`: judgments to a snapshot of pairs, split and hashed."""

from pathlib import Path
from typing import Annotated

import typer

from evenhand.cli.options import Json, Kind, Quiet
from evenhand.cli.output import Output


def curate(
    data: Annotated[str, typer.Argument(help="Preference pairs or judgments.")],
    out: Annotated[Path, typer.Option(help="Folder of the snapshot.")],
    validation: Annotated[float, typer.Option(help="Share of the pairs to hold out.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Seed of the split by prompt family.")] = 0,
    kind: Kind = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Drop what an audit finds, split by prompt family, and write train, validation, ledger and hash.

    Example: evenhand curate judgments.jsonl --out data/v1 --validation 0.2
    """
    from evenhand.data.preparation import prepare

    output = Output(as_json, quiet)
    dataset = prepare(data, out, (validation, seed), kind, output.say)
    counts = ", ".join(f"{name} {count}" for name, count in dataset["counts"].items() if isinstance(count, int))
    output.result(dataset, f"{out}: {counts}; hash {dataset['hash'][:16]}")
