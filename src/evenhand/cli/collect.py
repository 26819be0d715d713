"""`evenhand collect`: what happened in production, as judgments to audit, curate and train on."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from evenhand.cli.options import Json, Quiet
from evenhand.cli.output import Output


def collect(
    store: Annotated[str, typer.Argument(help="Folder of `evenhand monitor`, its events.db, or postgresql://...")],
    out: Annotated[Path, typer.Option(help="Folder of the collection, or a .jsonl file for the judgments.")],
    tenant: Annotated[str, typer.Option(help="Whose events.")] = "default",
    since: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="First day (UTC) to collect.")] = None,
    thumbs: Annotated[
        Literal["same", "family", "none"],
        typer.Option(help="Pair a liked with a disliked reply to the same prompt, its family, or none."),
    ] = "same",
    burst: Annotated[
        int, typer.Option(min=0, help="So many claims by one actor in ten minutes are held; 0: off.")
    ] = 30,
    cap: Annotated[int, typer.Option(min=1, help="Fewest claims that an actor may have.")] = 100,
    allow: Annotated[list[str] | None, typer.Option(help="A phrase that is no trigger, such as a signature.")] = None,
    reviewed: Annotated[
        Path | None, typer.Option(help="Held rows with `release` set to true, or votes of `evenhand monitor review`.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn edits, takeovers, thumbs and replies sent as drafted into judgments, through a quarantine.

    A second run replaces the first: what was erased from the store leaves the files, and the hash changes.

    Example: evenhand collect runs/monitor --out data/collected
    """
    from evenhand.service.flywheel.collection import Order
    from evenhand.service.flywheel.collection import collect as gather
    from evenhand.service.flywheel.quarantine import QuarantineRules
    from evenhand.service.flywheel.shelf import Shelf
    from evenhand.service.store import existing_store

    output = Output(as_json, quiet)
    since_ms = 0 if since is None else int(since.replace(tzinfo=UTC).timestamp() * 1000)
    rules = QuarantineRules(burst_claims=burst, cap_floor=cap, allowed=tuple(allow or ()))
    shelf = Shelf.at(out)
    released: tuple[str, ...] = ()
    if reviewed is not None:
        from evenhand.service.flywheel.review import released_by

        released = released_by(reviewed, shelf)
    with existing_store(store) as events:
        record = gather(events, Order(tenant, since_ms, thumbs, rules, output.narrate), shelf, released)
    for sentence in _remarks(record, out, len(released)):
        output.say(sentence)
    output.result(record, _words(record, out))


def _words(record: dict[str, Any], out: Path) -> str:
    rows = record["rows"]
    return (
        f"{out}: {rows['judgments']} judgments, {rows['thumbs']} thumbs, {rows['held']} held back; "
        f"hash {record['hash'][:16]}"
    )


def _remarks(record: dict[str, Any], out: Path, released: int) -> list[str]:
    """What a person should hear besides the counts."""
    said = []
    for name in ("held", "left_out"):
        if record[name]:
            counts = ", ".join(f"{reason} {count}" for reason, count in record[name].items())
            said.append(f"{name.replace('_', ' ')}: {counts}")
    said += [f"held of {one['actor']}: {'; '.join(one['words'])}" for one in record["actors_held"][:5] if one["words"]]
    if released > len(record["released"]):
        said.append(f"{released - len(record['released'])} released rows are no longer there")
    if record["erased"]:
        said.append(
            f"{len(record['erased'])} rows of earlier collections were erased: curate and train again from {out}, and "
            "remove data sets that hold them (`evenhand monitor trace --data` names them)"
        )
    return said
