"""`evenhand audit`: what is wrong with these judgments."""

from typing import Annotated, Any

import typer

from evenhand.cli.options import Json, Kind, Quiet
from evenhand.cli.output import Output
from evenhand.figure import figure


def audit(
    data: Annotated[str, typer.Argument(help="Preference pairs or judgments.")],
    kind: Kind = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 when a finding is severe.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what is wrong with preference data, and what it does to training; nothing is changed.

    Example: evenhand audit judgments.jsonl
    """
    from evenhand.data.audit import audit as find
    from evenhand.data.read import describe, read_judgments

    output = Output(as_json, quiet)
    reading = read_judgments(data, kind)
    output.say(describe(reading))
    found = find(reading)
    output.result(found.json(), words(found.json()))
    if strict and found.severe:
        raise typer.Exit(1)


def words(found: dict[str, Any]) -> str:
    """The audit for a person: a finding a paragraph, the gravest first."""
    refused = ", ".join(f"{reason} {count}" for reason, count in found["refused"].items()) or "none"
    lines = [f"{found['rows_in']} rows in, {found['rows_used']} used; refused: {refused}"]
    order = {"severe": 0, "warning": 1, "info": 2}
    for finding in sorted(found["findings"], key=lambda finding: order[finding["severity"]]):
        lines.append(f"\n{finding['severity']}: {finding['id']}, {finding['count']} rows ({finding['share']:.1%})")
        lines += [f"  {finding['effect']}", f"  {finding['remedy']}"]
    lines.append("")
    lines += [f"{name}: {figure(value).words()}" for name, value in found["figures"].items()]
    return "\n".join(lines)
