"""The service as one ASGI application: routes, refusals with their status, and what stands before them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

import evenhand
from evenhand.errors import EvenhandError, RegistryError
from evenhand.service.advice import roll_back_by_policy
from evenhand.service.bulletin import bulletin
from evenhand.service.dashboard import dashboard
from evenhand.service.database import Database, DatabaseAway, DatabaseFull
from evenhand.service.door import Refused, Service, service_of
from evenhand.service.event import first_problem
from evenhand.service.guard import LOOPBACK, Application, Guard
from evenhand.service.intake import event_schema, intake
from evenhand.service.keys import Keyring
from evenhand.service.limits import Buckets, Limits
from evenhand.service.lookout import Lookout
from evenhand.service.metrics import Meter, metrics
from evenhand.service.policy import Policy
from evenhand.service.production import Production
from evenhand.service.readout import readout
from evenhand.service.store import NOBODY, Store
from evenhand.service.writer import Clock, QueueFull, Writer


def make_service(
    database: Database,
    limits: Limits | None = None,
    clock: Clock | None = None,
    policy: Policy | None = None,
    shipped: Production | Path | None = None,
) -> Service:
    """The service of one database; neither its writer nor its lookout is started.

    `shipped` tells what is in production: a registry, or the folder of one exported model.
    """
    limits, clock, policy, store = limits or Limits(), clock or Clock(), policy or Policy(), Store(database)
    production = shipped if isinstance(shipped, Production) else None
    lookout = Lookout(store, policy, clock.now_ms)
    if production is not None and policy.rollback == "automatic":
        lookout.then = lambda: roll_back_by_policy(store, production, policy.rollback_tenants, clock.now_iso())
    return Service(
        store=store,
        writer=Writer(store, clock, limits.queue_events),
        keyring=Keyring(database),
        limits=limits,
        buckets=Buckets(limits.events_per_second, limits.burst_events),
        clock=clock,
        lookout=lookout,
        production=production,
        model=shipped if isinstance(shipped, Path) else None,
    )


def make_app(service: Service) -> FastAPI:
    """The routes alone, with their errors; the writer runs while the application does."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.writer.start()
        service.lookout.start()
        yield
        service.lookout.stop()
        service.writer.stop()

    # Their pages would load scripts from elsewhere; the document itself is at /openapi.json.
    app = FastAPI(
        title="evenhand monitor", version=evenhand.__version__, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.service = service
    for router in (intake, readout, bulletin, metrics, dashboard):
        app.include_router(router)
    app.add_api_route("/healthz", _health, responses={503: {"description": "Nothing is written now"}})
    _answer_errors(app)
    _document(app)
    return app


def protected(app: FastAPI, hosts: frozenset[str] = LOOPBACK) -> Application:
    """The application as it is served: metered, and answering only to `hosts`."""
    service: Service = app.state.service
    return Meter(Guard(app, hosts, lambda: service.notice(NOBODY, "forged")))


async def _health(request: Request) -> JSONResponse:
    """Whether events are taken: 200, or 503 where the last write failed or nobody writes any more."""
    failing = service_of(request).writer.failing is not None
    return JSONResponse({"status": "failing" if failing else "ok"}, 503 if failing else 200)


def _answer_errors(app: FastAPI) -> None:
    """Every refusal as `{"reason", "message"}` with its status."""

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        return _problem(error.status, error.reason, str(error), error.retry_seconds)

    @app.exception_handler(EvenhandError)
    async def failed(request: Request, error: EvenhandError) -> JSONResponse:
        status, reason, wait = {
            QueueFull: (503, "queue_full", 1.0),
            DatabaseFull: (507, "disk_full", 30.0),
            DatabaseAway: (503, "database_away", 5.0),
            RegistryError: (409, "registry", None),
        }.get(type(error), (500, "failed", None))
        service_of(request).notice(request.scope.get("evenhand.tenant", NOBODY), reason)
        return _problem(status, reason, str(error), wait)

    @app.exception_handler(ValidationError)
    async def unfit(_: Request, error: ValidationError) -> JSONResponse:
        return _problem(422, "invalid", first_problem(error))

    @app.exception_handler(RequestValidationError)
    async def unfit_query(_: Request, error: RequestValidationError) -> JSONResponse:
        problem = error.errors()[0]
        return _problem(422, "invalid", f"`{'.'.join(str(part) for part in problem['loc'])}`: {problem['msg']}")

    @app.exception_handler(HTTPException)
    async def elsewhere(_: Request, error: HTTPException) -> JSONResponse:
        answer = _problem(error.status_code, "no_route", f"{error.detail}; see /openapi.json for what there is.")
        answer.headers.update(error.headers or {})
        return answer


def _problem(status: int, reason: str, message: str, retry_seconds: float | None = None) -> JSONResponse:
    headers = {} if retry_seconds is None else {"Retry-After": str(max(1, round(retry_seconds + 0.5)))}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"reason": reason, "message": message}, status, headers)


def _document(app: FastAPI) -> None:
    """Add the event's schema, which the routes read by themselves, and the keys to the OpenAPI document."""
    plain = app.openapi

    def document() -> dict[str, Any]:
        found = plain()
        event = event_schema()
        schemas = found["components"]["schemas"]
        schemas.update({**event.pop("$defs", {}), "Event": event})
        found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, methods in found["paths"].items():
            if path != "/healthz":
                for method in methods.values():
                    method["security"] = [{"key": []}]
        return found

    app.openapi = document  # type: ignore[method-assign]
