"""`evenhand audit`: what is wrong with these judgments."""

from pathlib import Path
from typing import Annotated, Any

import typer

from evenhand.cli.destination import require_page
from evenhand.cli.measuring import Ray, Tokenizer, Workers, encoder, measuring
from evenhand.cli.options import Json, Kind, Quiet
from evenhand.cli.output import Output
from evenhand.errors import UserError
from evenhand.figure import figure


def audit(
    data: Annotated[str, typer.Argument(help="Preference pairs, judgments, or demonstrations.")],
    report: Annotated[
        Path | None, typer.Option(help="Write the audit as an HTML page, and its JSON beside it.")
    ] = None,
    held_out: Annotated[
        str | None, typer.Option(help="Judgments, demonstrations or prompts whose prompts must not be in DATA.")
    ] = None,
    tokenizer: Tokenizer = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest side in tokens; needs --tokenizer.")] = None,
    kind: Kind = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 when a finding is severe.")] = False,
    workers: Workers = 0,
    ray: Ray = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what is wrong with preference data, and what it does to training; nothing is changed.

    Example: evenhand audit judgments.jsonl --report audit.html
    """
    from evenhand.data.appraise import Asked, appraise

    output = Output(as_json, quiet)
    if max_tokens is not None and tokenizer is None:
        raise UserError("--max-tokens needs a tokenizer to count with; add --tokenizer MODEL.")
    if report is not None:
        require_page(report, (data, held_out))
    with measuring(data, workers, ray) as run:
        asked = Asked(data, kind, held_out, encoder(tokenizer), max_tokens, run, output.narrate)
        found = appraise(asked, output.say)
    if report is not None:
        from evenhand.evaluation.audit_page import write_audit_page

        write_audit_page(report, found)
        output.say(f"wrote {report} and {report.with_suffix('.json')}")
    told = found.json()
    output.result(told, words(told))
    if strict and found.severe:
        raise typer.Exit(1)


def words(found: dict[str, Any]) -> str:
    """The audit for a person: a finding a paragraph, the gravest first."""
    refused = ", ".join(f"{reason} {count}" for reason, count in found["refused"].items()) or "none"
    lines = [f"{found['rows_in']} rows in, {found['rows_used']} used; refused: {refused}"]
    order = {"severe": 0, "warning": 1, "info": 2}
    for finding in sorted(found["findings"], key=lambda finding: order[finding["severity"]]):
        lines.append(f"\n{finding['severity']}: {finding['id']}, {finding['count']} rows ({finding['share']:.1%})")
        lines += [f"  {finding['detail']}"] if finding["detail"] else []
        lines += [f"  {finding['effect']}", f"  {finding['remedy']}"]
        lines += [f"  e.g. row {own['row']}: {own['text'][:90]}" for own in finding["examples"][:2]]
    lines.append("")
    lines += [f"{name}: {figure(value).words()}" for name, value in found["figures"].items()]
    return "\n".join(lines)
