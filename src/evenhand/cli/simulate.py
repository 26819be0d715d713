"""`evenhand monitor simulate`: events of an invented team, whose behaviour changes at a known draft."""

from dataclasses import replace
from typing import Annotated

import typer

from evenhand.cli.options import Json, Quiet
from evenhand.cli.output import Output
from evenhand.errors import UserError


def simulate(
    context: typer.Context,
    drafts: Annotated[int, typer.Option(min=1, help="How many drafts.")] = 2000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same events.")] = 0,
    change_at: Annotated[int | None, typer.Option(min=0, help="Draft from which on behaviour changes.")] = None,
    takeover: Annotated[float, typer.Option(help="Share taken over.")] = 0.08,
    takeover_after: Annotated[float, typer.Option(help="Share taken over after the change.")] = 0.12,
    edit: Annotated[float, typer.Option(help="Share edited.")] = 0.10,
    edit_after: Annotated[float | None, typer.Option(help="Share edited after the change.")] = None,
    model: Annotated[str, typer.Option(help="The model that drafts.")] = "harbor-1",
    per_day: Annotated[int, typer.Option(min=1, help="Drafts a day.")] = 1000,
    to: Annotated[str | None, typer.Option(help="Send to a running service, such as http://127.0.0.1:8710.")] = None,
    key: Annotated[str | None, typer.Option(envvar="EVENHAND_KEY", help="A write key, with --to.")] = None,
    tenant: Annotated[str, typer.Option(help="Whose events, without --to.")] = "default",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Invent what a support team does with a bot's drafts on the built-in tickets, and store it or send it.

    Example: evenhand monitor --folder /tmp/m simulate --drafts 20000 --change-at 10000
    """
    from evenhand.cli.monitor import opened
    from evenhand.service.shipping import into_store, to_service
    from evenhand.service.simulate import Behaviour, Simulation, simulated

    if (to is None) != (key is None):
        raise UserError("give --to and --key together, or neither to write into the store itself.")
    before = Behaviour(edit=edit, takeover=takeover)
    after = replace(before, takeover=takeover_after, edit=edit if edit_after is None else edit_after)
    wanted = Simulation(drafts, seed, change_at, before, after, model, per_day)
    output = Output(as_json, quiet)
    bodies = list(simulated(wanted))

    def tell(done: int) -> None:
        output.narrate("events", done, len(bodies))

    if to is not None and key is not None:
        stored, where = to_service(to, key, bodies, tell), to
    else:
        with opened(context.obj) as store:
            stored, where = into_store(store, tenant, bodies, tell), context.obj.name
    changed = None if change_at is None else f"d{seed}-{change_at:06d}"
    found = {"events": len(bodies), "stored": stored, "drafts": drafts, "first_changed": changed, "where": where}
    output.result(found, f"{where}: {stored} of {len(bodies)} events are new; the first changed draft is {changed}")
