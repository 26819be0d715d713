"""The routes that read what is kept, and those that only an admin may use: keys and erasure."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any, Literal

import pydantic_core
from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict

from evenhand.errors import UserError
from evenhand.service.door import Refused, admit, read_small_body, service_of
from evenhand.service.event import KINDS, Kind, Name
from evenhand.service.intake import NDJSON, REFUSALS, Problem
from evenhand.service.keys import Role, make_key, read_keys, revoke_key
from evenhand.service.store import StoredEvent

readout = APIRouter(responses={status: REFUSALS[status] for status in (401, 403, 503)})

Since = Annotated[str, Query(pattern=r"^(\d{4}-\d{2}-\d{2})?$", description="First day, as 2026-11-25.")]
_INVALID: dict[int | str, dict[str, Any]] = {422: {"model": Problem, "description": "Not what the route takes"}}
_BODY: dict[int | str, dict[str, Any]] = {
    400: REFUSALS[400],
    408: REFUSALS[408],
    413: {"model": Problem, "description": "The body is too large"},
    **_INVALID,
}


class Erasure(BaseModel):
    """Whose events lose their text and names: one actor's or one conversation's."""

    model_config = ConfigDict(extra="forbid")

    what: Literal["actor", "conversation"]
    name: Name


class NewKey(BaseModel):
    """The role that a new key shall have."""

    model_config = ConfigDict(extra="forbid")

    role: Role


@readout.get("/v1/events", response_class=StreamingResponse, responses={200: {"content": {NDJSON: {}}}, **_INVALID})
async def get_events(
    request: Request,
    after: Annotated[int, Query(ge=0, le=2**62, description="Number of the last event that is known.")] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    kind: Kind | None = None,
) -> StreamingResponse:
    """The tenant's events in the order in which they were acknowledged, one JSON object a line."""
    key = await admit(request, "read")
    store = service_of(request).store
    kinds = (kind,) if kind else KINDS
    found = await run_in_threadpool(store.events, key.tenant, kinds, after, limit)
    return StreamingResponse(_lines(found), media_type=NDJSON)


@readout.get("/v1/rollups", responses=_INVALID)
async def get_rollups(request: Request, since: Since = "") -> JSONResponse:
    """Counts and sums by day, model, category and kind."""
    key = await admit(request, "read")
    found = await run_in_threadpool(service_of(request).store.rollups, since, key.tenant)
    return JSONResponse([asdict(one) for one in found])


@readout.get("/v1/notices", responses=_INVALID)
async def get_notices(request: Request, since: Since = "") -> JSONResponse:
    """What was refused, replayed or late, by day and reason."""
    key = await admit(request, "read")
    found = await run_in_threadpool(service_of(request).store.notices, since, key.tenant)
    return JSONResponse([asdict(one) for one in found])


@readout.post(
    "/v1/erasures",
    responses=_BODY,
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": Erasure.model_json_schema()}}}
    },
)
async def post_erasure(request: Request) -> JSONResponse:
    """Remove text and names of one actor's or conversation's events; counts and the chain stay. Answers their ids."""
    key = await admit(request, "admin")
    wanted = Erasure.model_validate_json(await read_small_body(request, key))
    service = service_of(request)
    moment = service.clock.now_ms()
    ids = await run_in_threadpool(service.store.erase, key.tenant, wanted.what, wanted.name, moment)
    return JSONResponse({"erased": list(ids)})


@readout.get("/v1/keys")
async def get_keys(request: Request) -> JSONResponse:
    """The tenant's keys, without what makes them keys."""
    key = await admit(request, "admin")
    found = await run_in_threadpool(read_keys, service_of(request).store.database, key.tenant)
    names = ("id", "role", "made_ms", "revoked_ms")
    return JSONResponse([{name: getattr(one, name) for name in names} for one in found])


@readout.post(
    "/v1/keys",
    status_code=201,
    responses=_BODY,
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": NewKey.model_json_schema()}}}
    },
)
async def post_key(request: Request) -> JSONResponse:
    """Make a key for the tenant; it is shown this once."""
    key = await admit(request, "admin")
    wanted = NewKey.model_validate_json(await read_small_body(request, key))
    service = service_of(request)
    made = await run_in_threadpool(make_key, service.store.database, key.tenant, wanted.role, service.clock.now_ms())
    await run_in_threadpool(service.keyring.read)
    return JSONResponse({"key": made, "role": wanted.role}, 201)


@readout.delete("/v1/keys/{name}", status_code=204, responses={404: {"model": Problem, "description": "No such key"}})
async def delete_key(request: Request, name: str) -> None:
    """Make one of the tenant's keys useless, at once here and within seconds on other machines."""
    key = await admit(request, "admin")
    service = service_of(request)
    try:
        await run_in_threadpool(revoke_key, service.store.database, key.tenant, name, service.clock.now_ms())
    except UserError as error:
        raise Refused(404, "unknown_key", str(error)) from error
    await run_in_threadpool(service.keyring.read)


def event_json(stored: StoredEvent) -> dict[str, Any]:
    """An event as readers get it: what was sent under `event`, null once it was erased."""
    shown = {name: getattr(stored, name) for name in StoredEvent.__slots__ if name not in ("event", "tenant")}
    return shown | {"event": pydantic_core.from_json(stored.event.body) if stored.event else None}


def _lines(found: list[StoredEvent]) -> Iterator[bytes]:
    for stored in found:
        yield pydantic_core.to_json(event_json(stored)) + b"\n"
