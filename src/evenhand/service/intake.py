"""The routes that take events: one at a time, or a batch as a JSON array or one event a line."""

from collections.abc import Sequence
from typing import Any, Literal

import pydantic_core
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from evenhand.errors import DataError
from evenhand.service.batch import Outcome
from evenhand.service.door import Refused, Service, admit, meter, read_body, refuse_deep, service_of
from evenhand.service.event import Event, EventForm, MalformedEvent, Unfit, read_event
from evenhand.service.limits import BATCH_BYTES, BATCH_EVENTS, DEPTH, EVENT_BYTES

intake = APIRouter()

NDJSON = "application/x-ndjson"
_EVENT = {"$ref": "#/components/schemas/Event"}
_ONE = {"required": True, "content": {"application/json": {"schema": _EVENT}}}
_MANY = {
    "required": True,
    "content": {
        "application/json": {"schema": {"type": "array", "items": _EVENT, "minItems": 1, "maxItems": BATCH_EVENTS}},
        NDJSON: {"schema": {"type": "string", "description": "One event a line."}},
    },
}


class Problem(BaseModel):
    """Why a request, or one event of a batch, was refused."""

    reason: str
    message: str


class Accepted(BaseModel):
    """An event that is durable, now or since an earlier request."""

    id: str
    outcome: Literal["stored", "replayed"]


class BatchResult(BaseModel):
    """What became of each line or item, in order: stored, replayed, or refused with a reason."""

    outcomes: list[Literal["stored", "replayed", "conflict", "refused"]]
    stored: int
    replayed: int
    refused: dict[int, Problem]


REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": description}
    for status, description in {
        400: "Not JSON, or nested too deep",
        401: "No valid key",
        403: "The key's role may not do this",
        408: "The body did not arrive in time",
        429: "More than the key's share; see Retry-After",
        503: "Nothing was taken; send it again after Retry-After",
        507: "The disk is full; nothing was taken",
    }.items()
}
_TAKEN: dict[int | str, dict[str, Any]] = {
    409: {"model": Problem, "description": "The id is taken by other content"},
    413: {"model": Problem, "description": "The body is too large"},
    422: {"model": Problem, "description": "Not an event"},
}


@intake.post(
    "/v1/events", response_model=Accepted, responses={**REFUSALS, **_TAKEN}, openapi_extra={"requestBody": _ONE}
)
async def post_event(request: Request) -> JSONResponse:
    """Take one event. The answer comes once it is durable; sending it again changes nothing."""
    key = await admit(request, "write")
    body = await read_body(request, key, EVENT_BYTES)
    meter(request, key, 1)
    refuse_deep(request, key, body, DEPTH)
    service = service_of(request)
    event = _fit(service, key.tenant, body)
    if isinstance(event, Unfit):
        status = 400 if event.reason == "malformed" else 422
        raise Refused(status, event.reason, event.message)
    (outcome,) = await service.writer.submit([event])
    if outcome == "conflict":
        raise Refused(409, "conflict", _conflict(event.id))
    return JSONResponse({"id": event.id, "outcome": outcome})


@intake.post(
    "/v1/events/batch",
    response_model=BatchResult,
    responses={
        **REFUSALS,
        413: _TAKEN[413],
        422: _TAKEN[422],
        207: {"model": BatchResult, "description": "Some were refused"},
    },
    openapi_extra={"requestBody": _MANY},
)
async def post_batch(request: Request) -> JSONResponse:
    """Take up to 1,000 events: a JSON array, or one event a line. A bad one is refused alone, by its place from 0."""
    key = await admit(request, "write")
    body = await read_body(request, key, BATCH_BYTES)
    refuse_deep(request, key, body, DEPTH + 1)
    service = service_of(request)
    items = _items(request, body)
    if len(items) > BATCH_EVENTS:
        service.notice(key.tenant, "too_large")
        raise Refused(413, "too_large", f"the batch holds {len(items)} events; send at most {BATCH_EVENTS} at a time.")
    meter(request, key, len(items))
    found = [_fit(service, key.tenant, item) for item in items]
    events = [event for event in found if isinstance(event, Event)]
    outcomes = iter(await service.writer.submit(events) if events else ())
    result = _result(found, [next(outcomes) if isinstance(one, Event) else None for one in found])
    return JSONResponse(result.model_dump(mode="json"), 207 if result.refused else 200)


def _items(request: Request, body: bytes) -> list[bytes]:
    """The JSON of each event of a batch; raises Refused (400, 422) where the whole is no batch."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == NDJSON:
        return [line for line in body.split(b"\n") if line and not line.isspace()]
    try:
        items = pydantic_core.from_json(body)
    except ValueError as error:
        raise Refused(400, "malformed", f"the body is not JSON ({error}).") from error
    if not isinstance(items, list):
        raise Refused(422, "invalid", f"a batch is a JSON array, or one event a line with Content-Type: {NDJSON}.")
    return [pydantic_core.to_json(item) for item in items]


def _fit(service: Service, tenant: str, body: bytes) -> Event | Unfit:
    """The event in `body`, or why it is not taken; late ones and unknown models are taken and counted."""
    if len(body) > EVENT_BYTES:
        return _unfit(service, tenant, "too_large", f"the event is larger than {EVENT_BYTES} bytes")
    try:
        event = read_event(tenant, body)
    except MalformedEvent as error:
        return _unfit(service, tenant, "malformed", str(error))
    except DataError as error:
        return _unfit(service, tenant, "invalid", str(error))
    ahead_seconds = (event.at_ms - service.clock.now_ms()) / 1000
    if ahead_seconds > service.limits.future_seconds:
        message = f"`at` is {ahead_seconds:.0f} seconds ahead of this machine's clock; set the sender's clock"
        return _unfit(service, tenant, "future", message)
    if -ahead_seconds > service.limits.late_seconds:
        service.notice(tenant, "late")
    known = service.production.release.names if service.production else None
    if event.model is not None and known is not None and event.model not in known:
        service.notice(tenant, "unknown_model")
    return event


def _unfit(service: Service, tenant: str, reason: str, message: str) -> Unfit:
    service.notice(tenant, reason)
    return Unfit(reason, message)


def _result(found: Sequence[Event | Unfit], outcomes: Sequence[Outcome | None]) -> BatchResult:
    refused = {
        place: Problem(reason=one.reason, message=one.message)
        for place, one in enumerate(found)
        if isinstance(one, Unfit)
    }
    for place, (one, outcome) in enumerate(zip(found, outcomes, strict=True)):
        if isinstance(one, Event) and outcome == "conflict":
            refused[place] = Problem(reason="conflict", message=_conflict(one.id))
    return BatchResult(
        outcomes=[outcome or "refused" for outcome in outcomes],
        stored=sum(outcome == "stored" for outcome in outcomes),
        replayed=sum(outcome == "replayed" for outcome in outcomes),
        refused=dict(sorted(refused.items())),
    )


def _conflict(name: str) -> str:
    return f"event {name!r} is stored with other content; give each event an id of its own"


def event_schema() -> dict[str, Any]:
    """The JSON Schema of an event, for the OpenAPI document."""
    return EventForm.model_json_schema(ref_template="#/components/schemas/{model}")
