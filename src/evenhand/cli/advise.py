"""`evenhand advise`: which method for this data and this team, and why."""

from pathlib import Path
from typing import Annotated, Any

import typer

from evenhand.cli.options import Json, Kind, Quiet
from evenhand.cli.output import Output
from evenhand.errors import UserError
from evenhand.figure import Figure
from evenhand.files import write_whole


def advise(
    data: Annotated[str, typer.Argument(help="Judgments, pairs, thumbs, demonstrations or prompts; curated data too.")],
    memory: Annotated[float | None, typer.Option(help="GiB of one device.")] = None,
    parameters: Annotated[float | None, typer.Option(help="Weights of the model, in billions.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Every weight is trained, and no adapter.")] = False,
    drift_limit: Annotated[
        float | None, typer.Option(help="Nats per token that the model may move from its start, 0 for hardly.")
    ] = None,
    high_stakes: Annotated[bool, typer.Option("--high-stakes", help="A wrong preference costs much.")] = False,
    verifier: Annotated[str | None, typer.Option(help="What grades an answer: file.py:function.")] = None,
    reward_model: Annotated[str | None, typer.Option(help="A reward run, or a classifier of one label.")] = None,
    reward_accuracy: Annotated[
        tuple[float, int] | None,
        typer.Option(
            help="Its pairwise accuracy on held-out pairs and their number, where it is no run with a report."
        ),
    ] = None,
    judge: Annotated[str | None, typer.Option(help="A model that can compare answers, by its address.")] = None,
    pairs: Annotated[int | None, typer.Option(help="How many there will be, where DATA is a sample.")] = None,
    length_skew: Annotated[
        float | None, typer.Option(help="Share of pairs whose shorter answer is chosen, where DATA does not show it.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the recipe to start from; an existing file is kept.")] = None,
    kind: Kind = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say which method fits this data and this team, by which rule, and what the guide's decision table says of it.

    Rules go in their order, and the first that holds decides; docs/methods.md lists them with their sources. Where the
    data cannot decide, that is the answer.

    Example: evenhand advise judgments.jsonl --drift-limit 0.05 --memory 24 --parameters 7
    """
    from evenhand.lifecycle.advice import advise as decide
    from evenhand.lifecycle.circumstances import Case, Team, as_planned, shown_by, with_accuracy
    from evenhand.lifecycle.start_recipe import next_commands, start_recipe

    output = Output(as_json, quiet)
    if out is not None and out.exists():
        raise UserError(f"{out} exists already; choose another file, or remove it.")
    team = Team(
        memory=memory,
        parameters=parameters,
        full_finetuning=full,
        drift_limit=drift_limit,
        high_stakes=high_stakes,
        verifier=verifier,
        reward_model=reward_model,
        judge=judge,
        **_accuracy(reward_accuracy, reward_model),
    ).present()
    shown = as_planned(shown_by(data, kind, output.say, output.narrate), pairs, length_skew)
    advice = decide(Case(shown, team if reward_accuracy else with_accuracy(team)))
    recipe = start_recipe(advice)
    found = advice.json() | {"recipe": recipe, "next": next_commands(advice)}
    if out is not None and recipe is not None:
        write_whole(out, recipe)
        output.say(f"wrote {out}; put your model's name into it")
    output.result(found, words(found))


def _accuracy(given: tuple[float, int] | None, reward_model: str | None) -> dict[str, Figure]:
    from evenhand.data.bias import share

    if given is None:
        return {}
    value, count = given
    if reward_model is None or not 0 <= value <= 1 or count < 1:
        raise UserError("--reward-accuracy is a share from 0 to 1 and a count, of the --reward-model; give all three.")
    return {"reward_accuracy": share(round(value * count), count)}


def words(found: dict[str, Any]) -> str:
    """The advice for a person."""
    first = found["decided_by"]
    lines = [
        found["sentence"],
        f"  because {first['words']}",
        f"  rule {first['id']}: {first['says']}",
        f"  {first['source']}",
    ]
    row = found["row"]
    if row:
        lines += ["", f"the guide's row: {row['method']}"]
        lines += [f"  {name.replace('_', ' ')}: {row[name]}" for name in ("strength", "weakness", "best_when")]
    others = [rule for rule in found["rules"] if rule["holds"] and rule["id"] != first["id"]]
    if others:
        lines += ["", "also holds, behind it:"]
        lines += [f"  {rule['id']} ({rule['method'] or 'no method'}): {rule['words']}" for rule in others]
    if found["cautions"]:
        lines += ["", "take care:", *(f"  {sentence}" for sentence in found["cautions"])]
    if found["recipe"]:
        lines += ["", "start from:", *(f"  {line}" for line in found["recipe"].splitlines())]
    return "\n".join([*lines, "", "next:", *(f"  {command}" for command in found["next"])])
