"""`evenhand gate`: whether a candidate is not worse than the model in production."""

from pathlib import Path
from typing import Annotated, Any

import typer

from evenhand.cli.destination import require_file
from evenhand.cli.options import Dtype, Json, Quiet
from evenhand.cli.output import Output
from evenhand.errors import UserError
from evenhand.figure import figure

_FAILING_SHOWN = 3


def gate(
    candidate: Annotated[str | None, typer.Argument(help="Export, run folder, model folder or hub id.")] = None,
    against: Annotated[str | None, typer.Option(help="The model in production, in the same ways.")] = None,
    policy: Annotated[Path | None, typer.Option(help="YAML; left out: the built-in policy.")] = None,
    data: Annotated[
        str | None, typer.Option(help="Held-out pairs; left out: those of the candidate's own run.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File for the result, which `registry promote` takes.")] = None,
    write_policy: Annotated[Path | None, typer.Option(help="Write the built-in policy to a file and end.")] = None,
    dtype: Dtype = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run tasks, refusals, attacks, bias, toxicity, length, speed and held-out pairs on both; exit 1 if one does not pass.

    Example: evenhand gate ship/harbor-2 --against ship/harbor-1 --out gate.json
    """
    from evenhand.files import write_json, write_whole
    from evenhand.lifecycle.appraisal import dtype_name
    from evenhand.lifecycle.contestant import load_contestant
    from evenhand.lifecycle.gate import run_gate
    from evenhand.lifecycle.policy import policy_text, read_policy

    output = Output(as_json, quiet)
    if out is not None:
        require_file(out, (data, policy))
    checked = read_policy(policy)
    if write_policy is not None:
        if write_policy.exists():
            raise UserError(f"{write_policy} exists already; choose another file.")
        write_whole(write_policy, policy_text(checked))
        output.result({"policy": str(write_policy)}, f"wrote {write_policy}")
        return
    if candidate is None or against is None:
        raise UserError("a gate needs two models: evenhand gate CANDIDATE --against INCUMBENT.")
    one, other = (load_contestant(name, dtype_name(dtype), output.say) for name in (candidate, against))
    found = run_gate(one, other, checked, data, output.narrate).json()
    if out is not None:
        write_json(out, found)
    output.result(found, words(found))
    if not found["passed"]:
        raise typer.Exit(1)


def words(found: dict[str, Any]) -> str:
    """The gate's table for a person, with what failed, what could not be told, and each detector's own accuracy."""
    lines = [
        f"{'':<17}{'candidate':>10}{'incumbent':>11}   {'difference, 95 % interval':<38}{'threshold':>9}   verdict"
    ]
    for check in found["checks"]:
        lines.append(
            f"{check['name']:<17}{_value(check['candidate']):>10}{_value(check['incumbent']):>11}   "
            f"{figure(check['difference']).words():<38}{check['threshold']:>+9.2f}   {check['verdict']}"
        )
    for check in found["checks"]:
        lines += _notes(check)
    detectors = {check["detector"]["name"]: check["detector"] for check in found["checks"] if check["detector"]}
    lines += [_detector(value) for value in detectors.values()]
    failed = [check["name"] for check in found["checks"] if not check["passed"]]
    lines.append(f"not passed: {', '.join(failed)}" if failed else "passed: not worse in any check")
    return "\n".join(lines)


def _notes(check: dict[str, Any]) -> list[str]:
    lines = []
    if check["verdict"] == "not run":
        lines.append(f"{check['name']} was not run, so it does not pass: {check['note']}")
    if check["verdict"] == "cannot detect":
        lines.append(
            f"{check['name']} cannot detect a loss: the incumbent is not shown to beat chance by the margin of "
            f"{-check['threshold']:g} ({figure(check['incumbent']).words()})"
        )
    if check["verdict"] == "undecided":
        needed = f"; {check['items_needed']} items would do for equal models" if check["items_needed"] else ""
        lines.append(f"{check['name']} is undecided: its interval reaches beyond the threshold{needed}")
    if not check["passed"] and check["failing"]:
        shown = [item for item in check["failing"] if item["incumbent_right"]] or check["failing"]
        lines += [
            f"  {item['prompt'][-1]['content'][:90]!r} -> {item['reply'][:90]!r}"
            for item in shown[:_FAILING_SHOWN]
            if item["prompt"]
        ]
    return lines


def _detector(value: dict[str, Any]) -> str:
    accuracy = figure(value["balanced_accuracy"]).words()
    return f"{value['name']}: balanced accuracy {accuracy} on {value['measured_on']}; it cannot see {value['blind_to']}"


def _value(value: dict[str, Any]) -> str:
    return "-" if value["value"] is None else f"{value['value']:.3f}"
