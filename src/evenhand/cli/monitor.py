"""`evenhand monitor`: the service that takes what happens in production, and the keys and checks of its store."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from evenhand.cli.options import Json, Quiet
from evenhand.cli.output import Output
from evenhand.cli.review import review
from evenhand.cli.simulate import simulate
from evenhand.cli.trace import trace
from evenhand.errors import UserError

monitor_app = typer.Typer(
    name="monitor",
    help="Watch production: take events from the bot, keep them for good, show what they say.",
    invoke_without_command=True,
    rich_markup_mode=None,
)
Tenant = Annotated[str, typer.Option(help="Whose events.")]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the events are: a folder with an SQLite file, or a PostgreSQL URL."""

    folder: Path
    url: str | None

    @property
    def name(self) -> str:
        """Where, in words that hold no password."""
        return "PostgreSQL" if self.url else str(self.folder / "events.db")


@monitor_app.callback()
def monitor(
    context: typer.Context,
    folder: Annotated[Path, typer.Option(help="Where the events are kept, in events.db.")] = Path("runs/monitor"),
    database: Annotated[
        str | None, typer.Option(envvar="EVENHAND_DATABASE", help="postgresql://... for many machines.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8710,
    host_name: Annotated[list[str] | None, typer.Option(help="A further name under which it is reached.")] = None,
    tenant: Annotated[str, typer.Option(help="Whose first keys are made.")] = "default",
    registry: Annotated[
        str | None, typer.Option(help="Folder of the registry: knows models, fallback and data.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="Where there is no registry: the exported model in use.")] = None,
    policy: Annotated[Path | None, typer.Option(help="YAML: when alarms open, as `monitor policy` prints it.")] = None,
    rate: Annotated[float, typer.Option(min=0.001, help="Events a second that one key may send.")] = 5000.0,
    traces: Annotated[
        str | None, typer.Option(envvar="OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", help="OTLP/HTTP endpoint for traces.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Serve events and the page on 127.0.0.1 with an SQLite file; the first start prints its keys, once.

    Example: evenhand monitor
    """
    place = Place(folder, database)
    context.obj = place
    if context.invoked_subcommand is not None:
        return
    from evenhand.service.limits import Limits
    from evenhand.service.policy import read_policy
    from evenhand.service.serve import Serving, first_keys, serve, shipped_in

    output = Output(as_json, quiet)
    limits = Limits(events_per_second=rate, burst_events=max(1, round(2 * rate)))
    watched = read_policy(policy)
    shipped = shipped_in(registry, model, watched)
    serving = Serving(host, port, tuple(host_name or ()), limits, watched, shipped, traces)
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    with opened(place) as store:
        keys = first_keys(store.database, tenant, int(time.time() * 1000))
        lines = [f"evenhand monitor: events and page at {address}, kept in {place.name}"]
        lines += [f"{role} key, shown this once: {key}" for role, key in keys.items()]
        output.result({"address": address, "events": place.name, "keys": keys}, "\n".join(lines))
        output.say("Ctrl-C ends it; what was acknowledged is on the disk.")
        serve(store.database, serving)


@monitor_app.command("policy")
def print_policy() -> None:
    """Print the built-in alarm policy as YAML. It holds without --policy, and is a start for one's own.

    Example: evenhand monitor policy > policy.yaml
    """
    from evenhand.service.policy import Policy, policy_text

    typer.echo(policy_text(Policy()), nl=False)


@monitor_app.command("grafana")
def print_dashboard() -> None:
    """Print a Grafana dashboard over /metrics. Import it there as JSON.

    Example: evenhand monitor grafana > evenhand.json
    """
    from evenhand.service.metrics import grafana_dashboard

    typer.echo(grafana_dashboard(), nl=False)


@monitor_app.command("alarms")
def list_alarms(
    context: typer.Context,
    tenant: Tenant = "default",
    registry: Annotated[str | None, typer.Option(help="Folder of the registry: says whether to roll back.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List the alarms; exit 1 while one is open. With --registry it says whether to roll back.

    Example: evenhand monitor alarms --registry registry
    """
    from evenhand.service.advice import advise
    from evenhand.service.bulletin import alarm_json, alarm_words
    from evenhand.service.lookout import alarms
    from evenhand.service.production import Production

    with existing(context.obj) as store:
        found = alarms(store, tenant)
        advice = advise(store.database, found, Production(registry).read() if registry else None)
    still_open = [alarm for alarm in found if alarm.closed is None]
    lines = [alarm_words(alarm) for alarm in sorted(found, key=lambda alarm: alarm.closed is not None)]
    lines += [advice.words] if advice else []
    if advice and advice.advised:
        lines.append(f'evenhand registry rollback --registry {registry} --why "..." brings {advice.fallback} back')
    result = {"alarms": [alarm_json(alarm) for alarm in found], "advice": advice.json() if advice else None}
    Output(as_json, quiet).result(result, "\n".join(lines) or "no alarm has ever opened")
    if still_open:
        raise typer.Exit(1)


@monitor_app.command("verify")
def verify_events(context: typer.Context, as_json: Json = False, quiet: Quiet = False) -> None:
    """Recompute the chain of hashes over every stored event, and all sums; exit 1 at the first change or removal.

    Example: evenhand monitor verify
    """
    from evenhand.service.chain import verify

    with existing(context.obj) as store:
        found = verify(store.database)
    words = found.problem or f"{found.events} events are what was acknowledged; head {found.head}"
    result = {"passed": found.problem is None, "events": found.events, "head": found.head, "problem": found.problem}
    Output(as_json, quiet).result(result, words)
    if found.problem:
        raise typer.Exit(1)


@monitor_app.command("import")
def import_events(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="JSONL: one event a line.")],
    field: Annotated[list[str] | None, typer.Option(help="OURS=THEIRS where the log has other names.")] = None,
    constant: Annotated[list[str] | None, typer.Option("--set", help="OURS=VALUE where the log has none.")] = None,
    value: Annotated[list[str] | None, typer.Option(help="KIND=THEIRS where the log calls a kind otherwise.")] = None,
    tenant: Tenant = "default",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Add what a team has logged already; a second run adds nothing. Exit 1 where lines were refused.

    Example: evenhand monitor import log.jsonl --field at=timestamp --field conversation=session --value takeover=handoff
    """
    from evenhand.service.importer import Mapping, import_file

    output = Output(as_json, quiet)
    mapping = Mapping.read(field or [], constant or [], value or [])
    with opened(context.obj) as store:
        found = import_file(store, tenant, file, mapping, int(time.time() * 1000), output.narrate)
    output.result(found.json(), found.words())
    if found.refused:
        raise typer.Exit(1)


@monitor_app.command("keys")
def list_keys(context: typer.Context, as_json: Json = False, quiet: Quiet = False) -> None:
    """List the keys, without what makes them keys.

    Example: evenhand monitor keys
    """
    from evenhand.service.keys import read_keys

    with existing(context.obj) as store:
        keys = read_keys(store.database)
    rows = [
        {"id": key.id, "tenant": key.tenant, "role": key.role, "made_ms": key.made_ms, "revoked_ms": key.revoked_ms}
        for key in keys
    ]
    lines = [f"{key.id} {key.tenant} {key.role}{'' if key.revoked_ms is None else ' (revoked)'}" for key in keys]
    Output(as_json, quiet).result({"keys": rows}, "\n".join(lines) or "no keys yet")


@monitor_app.command("key")
def add_key(
    context: typer.Context,
    role: Annotated[str, typer.Argument(help="write, read or admin.")],
    tenant: Tenant = "default",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a key; it is shown this once.

    Example: evenhand monitor key write --tenant harbor
    """
    from evenhand.service.keys import make_key

    with opened(context.obj) as store:
        key = make_key(store.database, tenant, role, int(time.time() * 1000))
    Output(as_json, quiet).result({"key": key, "tenant": tenant, "role": role}, key)


@monitor_app.command("revoke")
def revoke(
    context: typer.Context,
    key: Annotated[str, typer.Argument(help="The key's id, as `evenhand monitor keys` lists it.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a key useless, within five seconds everywhere.

    Example: evenhand monitor revoke 0123456789abcdef
    """
    from evenhand.service.keys import revoke_key

    with existing(context.obj) as store:
        revoke_key(store.database, None, key, int(time.time() * 1000))
    Output(as_json, quiet).result({"revoked": key}, f"{key} is revoked")


@monitor_app.command("erase")
def erase(
    context: typer.Context,
    actor: Annotated[str | None, typer.Option(help="Erase what this actor said and did.")] = None,
    conversation: Annotated[str | None, typer.Option(help="Erase this conversation.")] = None,
    tenant: Tenant = "default",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Remove text and names of one actor's or conversation's events; counts and the chain stay.

    Example: evenhand monitor erase --conversation c-1041
    """
    if (actor is None) == (conversation is None):
        raise UserError("give either --actor or --conversation.")
    with existing(context.obj) as store:
        at_ms = int(time.time() * 1000)
        ids = (
            store.erase(tenant, "actor", actor, at_ms)
            if actor is not None
            else store.erase(tenant, "conversation", conversation or "", at_ms)
        )
    Output(as_json, quiet).result({"erased": list(ids)}, f"{len(ids)} events erased")


monitor_app.command("simulate")(simulate)
monitor_app.command("trace")(trace)
monitor_app.command("review")(review)


@contextmanager
def opened(place: Place) -> Iterator[Any]:
    """The store at a place, made where there is none, and closed afterwards."""
    from evenhand.service.place import open_database
    from evenhand.service.store import Store

    if not place.url:
        place.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = open_database(place.url or str(place.folder / "events.db"))
    try:
        yield Store(database)
    finally:
        database.close()


def existing(place: Place) -> AbstractContextManager[Any]:
    """The store at a place, closed afterwards; raises UserError where there is none."""
    from evenhand.service.store import existing_store

    return existing_store(place.url or str(place.folder))
