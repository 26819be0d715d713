"""The service as a process: its folder, its first keys, and the server that runs until it is told to stop."""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import uvicorn

from evenhand.errors import RegistryError, UserError
from evenhand.lifecycle.registry import Registry, read_log, state_of
from evenhand.service.app import make_app, make_service, protected
from evenhand.service.database import Database
from evenhand.service.guard import LOOPBACK
from evenhand.service.keys import make_key, read_keys
from evenhand.service.limits import Limits
from evenhand.service.traces import traced

# The interpreter's threads take turns this often: the writer would else wait 5 ms after each statement.
_SWITCH_SECONDS = 0.0005
_REGISTRY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Serving:
    """Where to listen, under which further names, with which limits; `registry` and `traces` where there are any."""

    host: str
    port: int
    host_names: tuple[str, ...]
    limits: Limits
    registry: str | None
    traces: str | None


def first_keys(database: Database, tenant: str, at_ms: int) -> dict[str, str]:
    """A write and an admin key where the database has none at all; nothing where it has."""
    return {} if read_keys(database) else {role: make_key(database, tenant, role, at_ms) for role in ("write", "admin")}


def serve(database: Database, serving: Serving) -> None:
    """Serve until SIGTERM or SIGINT; what was taken by then is written first. Raises UserError for a taken port."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    service = make_service(database, serving.limits, models=known_models(serving.registry))
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


def known_models(registry: str | None) -> Callable[[], frozenset[str] | None]:
    """What tells which models a registry knows, by name and by the hash of their manifest; read again now and then.

    Raises UserError for one behind a URL, since the service calls nobody, RegistryError for one that is damaged.
    """
    if registry is None:
        return lambda: None
    if "://" in registry:
        raise UserError(f"{registry} is not a folder, and the service calls nobody; give a folder, or leave it out.")
    shelf = Registry(registry)

    def names() -> frozenset[str]:
        candidates = state_of(read_log(shelf)).candidates
        return frozenset(candidates) | frozenset(candidates.values())

    known, read_at = names(), time.monotonic()

    def models() -> frozenset[str]:
        nonlocal known, read_at
        if time.monotonic() - read_at > _REGISTRY_SECONDS:
            read_at = time.monotonic()
            with suppress(RegistryError, OSError):  # what was known stays known, and events must not wait for it
                known = names()
        return known

    return models
