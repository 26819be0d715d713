"""The service as a process: its folder, its first keys, and the server that runs until it is told to stop."""

import sys
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from evenhand.errors import UserError
from evenhand.lifecycle.manifest import read_manifest
from evenhand.service.app import make_app, make_service, protected
from evenhand.service.database import Database
from evenhand.service.guard import LOOPBACK
from evenhand.service.keys import make_key, read_keys
from evenhand.service.limits import Limits
from evenhand.service.policy import Policy
from evenhand.service.production import Production
from evenhand.service.traces import traced

# The interpreter's threads take turns this often: the writer would else wait 5 ms after each statement.
_SWITCH_SECONDS = 0.0005


@dataclass(frozen=True, slots=True)
class Serving:
    """Where to listen, under which further names, with which limits and policy; the rest where there is any."""

    host: str
    port: int
    host_names: tuple[str, ...]
    limits: Limits
    policy: Policy
    shipped: Production | Path | None
    traces: str | None


def first_keys(database: Database, tenant: str, at_ms: int) -> dict[str, str]:
    """A write, a read and an admin key where the database has none at all; nothing where it has."""
    return (
        {}
        if read_keys(database)
        else {role: make_key(database, tenant, role, at_ms) for role in ("write", "read", "admin")}
    )


def shipped_in(registry: str | None, model: Path | None, policy: Policy) -> Production | Path | None:
    """What tells of the model in production; raises UserError for what does not, or where the policy needs a registry."""
    if registry is not None and model is not None:
        raise UserError("give --registry or --model; a registry knows the model in production itself.")
    if registry is None and policy.rollback == "automatic":
        raise UserError("the policy says `rollback: automatic`, which needs --registry FOLDER.")
    if registry is not None:
        return Production(registry)
    if model is not None:
        read_manifest(model)
    return model


def serve(database: Database, serving: Serving) -> None:
    """Serve until SIGTERM or SIGINT; what was taken by then is written first. Raises UserError for a taken port."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    service = make_service(database, serving.limits, policy=serving.policy, shipped=serving.shipped)
    app = protected(make_app(service), LOOPBACK | {serving.host} | frozenset(serving.host_names))
    config = uvicorn.Config(
        traced(app, serving.traces) if serving.traces else app,
        host=serving.host,
        port=serving.port,
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=10,
    )
    try:
        uvicorn.Server(config).run()
    except SystemExit as error:  # uvicorn's way to say that it could not start; its log line says why
        raise UserError(f"{serving.host}:{serving.port} cannot be listened on; choose another --port.") from error
