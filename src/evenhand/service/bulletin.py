"""The routes that tell of alarms and of what is advised, and the one by which a person rolls back."""

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from evenhand.lifecycle.registry import Decision
from evenhand.service.advice import advise, carry_out
from evenhand.service.alarm import Notice
from evenhand.service.door import Refused, Service, admit, read_small_body, service_of
from evenhand.service.event import Name
from evenhand.service.intake import REFUSALS, Problem
from evenhand.service.lookout import Alarm, alarms

bulletin = APIRouter(responses={status: REFUSALS[status] for status in (401, 403, 503)})


class Rollback(BaseModel):
    """Which model is to go, who says so and why; the registry's log keeps both."""

    model_config = ConfigDict(extra="forbid")

    instead_of: Name = Field(description="The model in production; refused (409) where another one is by now.")
    who: Name
    why: Annotated[str, Field(max_length=2000)] = ""


@bulletin.get("/v1/alarms")
async def get_alarms(request: Request) -> JSONResponse:
    """Every alarm, the latest first; whether to roll back; how many drafts are missing before anything is watched."""
    key = await admit(request, "read")
    return JSONResponse(await run_in_threadpool(_told, service_of(request), key.tenant))


@bulletin.post(
    "/v1/rollback",
    responses={
        400: REFUSALS[400],
        404: {"model": Problem, "description": "The service was started without --registry"},
        408: REFUSALS[408],
        409: {"model": Problem, "description": "Another model is in production, or there is no fallback"},
        413: {"model": Problem, "description": "The body is too large"},
        422: {"model": Problem, "description": "Not what the route takes"},
    },
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": Rollback.model_json_schema()}}}
    },
)
async def post_rollback(request: Request) -> JSONResponse:
    """Bring the registry's fallback back; answers the entry of its log."""
    key = await admit(request, "admin")
    wanted = Rollback.model_validate_json(await read_small_body(request, key))
    decision = Decision(wanted.who, service_of(request).clock.now_iso(), wanted.why)
    return JSONResponse(await run_in_threadpool(roll_back, service_of(request), decision, wanted.instead_of))


def roll_back(service: Service, decision: Decision, instead_of: str) -> dict[str, Any]:
    """Do what a person decided; raises Refused (404, 409) where there is no registry or nothing to go back to."""
    if service.production is None:
        raise Refused(404, "no_registry", "the service knows no registry; start it with --registry FOLDER.")
    if service.production.read().fallback is None:
        raise Refused(409, "registry", "the registry has no fallback: no other model was ever in production.")
    return carry_out(service.production, decision, instead_of)


def alarm_json(alarm: Alarm) -> dict[str, Any]:
    """An alarm as routes and commands tell it; `closed` is null while it is open."""
    return {
        "opened": _notice_json(alarm.opened, alarm.opened_ms),
        "closed": _notice_json(alarm.closed, alarm.closed_ms or 0) if alarm.closed else None,
    }


def alarm_words(alarm: Alarm) -> str:
    """An alarm in one line."""
    since = f"since {day_and_time(alarm.opened_ms)}"
    if alarm.closed_ms is None:
        return f"open {since}: {alarm.opened.words()}"
    return f"closed {day_and_time(alarm.closed_ms)}, open {since}: {alarm.opened.words()}"


def day_and_time(milliseconds: int) -> str:
    """A moment for a person, UTC.

    >>> day_and_time(0)
    '1970-01-01 00:00 UTC'
    """
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M} UTC"


def _notice_json(notice: Notice, at_ms: int) -> dict[str, Any]:
    moment = datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return {"at": moment, **{name: value for name, value in notice.json().items() if name != "what"}}


def _told(service: Service, tenant: str) -> dict[str, Any]:
    found = alarms(service.store, tenant)
    release = service.production.release if service.production else None
    advice = advise(service.store.database, found, release)
    return {
        "alarms": [alarm_json(alarm) for alarm in found],
        "advice": advice.json() if advice else None,
        "drafts_missing": service.lookout.missing(tenant),
    }
