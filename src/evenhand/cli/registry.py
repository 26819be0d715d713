"""`evenhand registry`: candidates, the model in production, its fallback, and every decision about them."""

import getpass
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from evenhand.cli.options import Json, Quiet
from evenhand.cli.output import Output
from evenhand.errors import UserError

registry_app = typer.Typer(
    name="registry",
    help="Which model is in production, which was before it, and who decided so.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Place = Annotated[
    str, typer.Option("--registry", envvar="EVENHAND_REGISTRY", help="Folder, or a URL that fsspec knows.")
]
Why = Annotated[str, typer.Option(help="Kept in the log.")]
Who = Annotated[str | None, typer.Option(help="Kept in the log; left out: the user's name.")]


@registry_app.command("add")
def add_candidate(
    folder: Annotated[Path, typer.Argument(help="A folder that `evenhand export` wrote.")],
    name: Annotated[str | None, typer.Option(help="Left out: the run's name and the manifest's hash.")] = None,
    place: Place = "registry",
    why: Why = "",
    who: Who = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Copy an exported model into the registry as a candidate, once it is what was shipped.

    Example: evenhand registry add ship/harbor --name harbor-2
    """
    from evenhand.lifecycle.registry import Registry, add

    _tell(as_json, quiet, place, add(Registry(place), folder, name, _decision(who, why)).content)


@registry_app.command("list")
def list_models(
    place: Place = "registry",
    log: Annotated[bool, typer.Option("--log", help="Every decision, not only the state.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Also read and hash every file, behind a URL too; exit 1 if one differs.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show candidates, the model in production and its fallback, after checking the log's chain.

    Example: evenhand registry list
    """
    from evenhand.lifecycle.registry import Registry, model_problems, read_log, state_of

    registry = Registry(place)
    entries = read_log(registry)
    if not entries:
        raise UserError(f"{place} is no registry: it has no log. `evenhand registry add FOLDER` begins one.")
    state = state_of(entries)
    found: dict[str, Any] = {
        "incumbent": state.incumbent,
        "fallback": state.fallback,
        "candidates": {
            name: {"manifest_sha256": sha, "place": registry.model_place(sha)} for name, sha in state.candidates.items()
        },
        "head": entries[-1].sha256,
        "problems": model_problems(registry, state) if check else [],
    }
    lines = [_state_words(place, state.incumbent, state.fallback)]
    lines += [f"  {name}: {one['place']}" for name, one in found["candidates"].items()]
    if log:
        found["log"] = [dict(entry.content) for entry in entries]
        lines += [_entry_words(entry.content) for entry in entries]
    Output(as_json, quiet).result(found, "\n".join([*lines, *found["problems"]]))
    if found["problems"]:
        raise typer.Exit(1)


@registry_app.command("promote")
def promote_candidate(
    name: Annotated[str, typer.Argument(help="A candidate's name.")],
    gate: Annotated[Path | None, typer.Option(help="What `evenhand gate --out FILE` wrote for it.")] = None,
    overrule: Annotated[str | None, typer.Option(help="Reason to promote without a passed gate; it is kept.")] = None,
    place: Place = "registry",
    why: Why = "",
    who: Who = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Put a candidate into production on a gate passed against the model there now, which becomes the fallback.

    Example: evenhand registry promote harbor-2 --gate gate.json --why "shorter replies"
    """
    from evenhand.lifecycle.registry import Registry, promote, read_gate

    result = read_gate(gate) if gate else None
    _tell(as_json, quiet, place, promote(Registry(place), name, result, _decision(who, why), overrule).content)


@registry_app.command("rollback")
def rollback_model(
    place: Place = "registry", why: Why = "", who: Who = None, as_json: Json = False, quiet: Quiet = False
) -> None:
    """Bring back the model that was in production before.

    Example: evenhand registry rollback --why "customers complain"
    """
    from evenhand.lifecycle.registry import Registry, rollback

    _tell(as_json, quiet, place, rollback(Registry(place), _decision(who, why)).content)


def _decision(who: str | None, why: str) -> Any:
    from evenhand.lifecycle.registry import Decision

    return Decision(who or _user(), datetime.now(UTC).isoformat(timespec="seconds"), why)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return f"uid {os.getuid()}"


def _tell(as_json: bool, quiet: bool, place: str, content: Any) -> None:
    """What was decided, and the state after it."""
    from evenhand.lifecycle.registry import Registry, read_log, state_of

    state = state_of(read_log(Registry(place)))
    found = {"entry": dict(content), "incumbent": state.incumbent, "fallback": state.fallback}
    words = f"{_entry_words(content)}\n{_state_words(place, state.incumbent, state.fallback)}"
    Output(as_json, quiet).result(found, words)


def _state_words(place: str, incumbent: str | None, fallback: str | None) -> str:
    return f"{place}: in production {incumbent or 'nothing'}, fallback {fallback or 'none'}"


def _entry_words(content: Any) -> str:
    overruled = f", overruling that {content['overruled']['because']}" if content.get("overruled") else ""
    why = f": {content['why']}" if content["why"] else ""
    return (
        f"{content['number']}. {content['when']} {content['who']} {content['action']} {content['name']}{overruled}{why}"
    )
