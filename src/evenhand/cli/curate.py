"""`evenhand curate`: judgments to a snapshot of pairs, split and hashed."""

from pathlib import Path
from typing import Annotated

import typer

from evenhand.cli.measuring import Ray, Tokenizer, Workers, encoder, measuring
from evenhand.cli.options import Json, Kind, Quiet
from evenhand.cli.output import Output


def curate(
    data: Annotated[str, typer.Argument(help="Preference pairs or judgments.")],
    out: Annotated[Path, typer.Option(help="Folder of the snapshot.")],
    validation: Annotated[float, typer.Option(help="Share of the pairs to hold out.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Seed of the split by prompt family.")] = 0,
    rules: Annotated[Path | None, typer.Option(help="YAML file with the rules, in their order.")] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the data, for its card.")] = None,
    origin: Annotated[str | None, typer.Option(help="Where the data comes from, for its card.")] = None,
    tokenizer: Tokenizer = None,
    kind: Kind = None,
    workers: Workers = 0,
    ray: Ray = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Drop what an audit finds, split by prompt family, and write train, validation, ledger and hash.

    Rules are named in a YAML file, such as `rules: [tie, exact_duplicate, {annotator_cap: {most: 500}}, majority,
    contradiction, {too_long: {tokens: 2048}}]`; left out, every rule runs that needs no limit.

    Example: evenhand curate judgments.jsonl --out data/v1 --validation 0.2
    """
    from evenhand.data.bench import CurationRules
    from evenhand.data.preparation import Wanted, prepare
    from evenhand.data.rulebook import read_rules

    output = Output(as_json, quiet)
    chosen = CurationRules() if rules is None else read_rules(rules)
    with measuring(data, workers, ray) as run:
        wanted = Wanted(validation, seed, kind, chosen, licence, origin, encoder(tokenizer), run, output.narrate)
        dataset = prepare(data, out, wanted, output.say)
    counts = ", ".join(f"{name} {count}" for name, count in dataset["counts"].items() if isinstance(count, int))
    output.result(dataset, f"{out}: {counts}; hash {dataset['hash'][:16]}")
