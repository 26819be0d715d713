"""The page: how the bot is doing now and by day, model against model, what to read, what to do. Works without scripts."""

from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, RedirectResponse

from evenhand.errors import EvenhandError
from evenhand.evaluation.cell import cell
from evenhand.evaluation.html import page, style
from evenhand.lifecycle.registry import Decision
from evenhand.service.advice import advise
from evenhand.service.bulletin import day_and_time, roll_back
from evenhand.service.contest import UNITS, contest, median_cell
from evenhand.service.counts import Counts
from evenhand.service.door import Refused, Service, service_of
from evenhand.service.event import KINDS
from evenhand.service.keys import Key
from evenhand.service.lineage import Lineage, lineage
from evenhand.service.lookout import alarms
from evenhand.service.overview import Overview, read_overview
from evenhand.service.policy import SIGNALS
from evenhand.service.sequence import rate
from evenhand.service.session import SESSION_HOURS, decide, key_of, read_form, sign_in, sign_out, token_of
from evenhand.service.store import NOBODY
from evenhand.service.trends import SHORT, TITLES, trend_panels
from evenhand.service.trouble import passages, worst

dashboard = APIRouter(include_in_schema=False)

_FOLDER = Path(__file__).parent / "page"
DAYS = {7: "7 days", 28: "4 weeks", 91: "3 months", 365: "a year"}
_CATEGORIES = 12
_NAME = r"^[^\x00-\x1f\x7f]*$"
# `same-origin` instead of the guard's `no-referrer`, under which browsers send no origin with a form.
_HEADERS = {
    "Referrer-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
}
_REASONS: Mapping[str, str] = {
    "replayed": "sent again; counted once",
    "conflict": "an id that is taken by other content; refused",
    "without_draft": "about a draft that is not known; counted without a model",
    "late": "more than a day old when it came; counted on its own day",
    "future": "dated ahead of this machine's clock; refused",
    "unknown_model": "of a model that is not in the registry; counted",
    "malformed": "not JSON; refused",
    "invalid": "not an event; refused",
    "too_large": "larger than is taken; refused",
    "too_deep": "nested too deep; refused",
    "too_slow": "did not arrive in time; refused",
    "rate_limited": "beyond the key's share; refused",
    "queue_full": "more than could wait to be written; refused",
    "forbidden": "a key that may not do this; refused",
    "unauthorised": "no valid key; refused",
    "forged": "another Host or Origin; refused",
    "clock_jump": "the machine's clock jumped",
    "disk_full": "the disk was full; nothing was taken",
    "database_away": "the database was away; nothing was taken",
}


@dashboard.get("/")
async def get_page(request: Request, days: Annotated[int, Query()] = 28) -> Response:
    """The page of the reader's tenant; without a key the form that asks for one."""
    key = await key_of(request)
    if key is None or not key.may("read"):
        return _login(401, "" if key is None else f"This key may {key.role}. The page needs a read or an admin key.")
    values = await run_in_threadpool(_values, service_of(request), key, days if days in DAYS else 28)
    return _html("monitor.html.j2", 200, token=token_of(request), **values)


@dashboard.post("/login")
async def post_login(request: Request) -> Response:
    """Begin a session with a key."""
    given = (await read_form(request)).get("key", "").strip()
    service = service_of(request)
    await run_in_threadpool(service.keyring.read)
    key = service.keyring.find(given)
    if key is None:
        service.notice(NOBODY, "unauthorised")
        return _login(401, "That is no key in use. It begins with evk_ and was shown once, when it was made.")
    if not key.may("read"):
        return _login(403, f"This key may {key.role}. The page needs a read or an admin key.")
    answer = RedirectResponse("/", 303, _HEADERS)
    await sign_in(request, answer, key)
    return answer


@dashboard.post("/logout")
async def post_logout(request: Request) -> Response:
    """End the session."""
    await read_form(request)
    answer = RedirectResponse("/", 303, _HEADERS)
    await sign_out(request, answer)
    return answer


@dashboard.post("/rollback")
async def post_rollback(request: Request) -> Response:
    """Bring the fallback back, as a person with an admin key has said on the page."""
    service = service_of(request)
    try:
        _, fields = await decide(request, "admin")
        decision = Decision(
            fields.get("who", "").strip()[:200] or "a reader of the page",
            service.clock.now_iso(),
            fields.get("why", "")[:2000],
        )
        await run_in_threadpool(roll_back, service, decision, fields.get("instead_of", ""))
    except (Refused, EvenhandError) as error:
        status = error.status if isinstance(error, Refused) else 409
        return _html("refused.html.j2", status, message=str(error))
    return RedirectResponse("/", 303, _HEADERS)


@dashboard.get("/conversation")
async def get_conversation(
    request: Request, name: Annotated[str, Query(max_length=200, pattern=_NAME)] = ""
) -> Response:
    """One conversation in full."""
    key = await key_of(request)
    if key is None or not key.may("read"):
        return _login(401, "")
    found = await run_in_threadpool(passages, service_of(request).store, key.tenant, name)
    return _html(
        "conversation.html.j2", 200 if found else 404, name=name, passages=found, key=key, token=token_of(request)
    )


@dashboard.get("/page.css")
async def get_style() -> Response:
    """The house style and the page's own."""
    return Response(_file("monitor.css", str(style())), media_type="text/css", headers={"Cache-Control": "max-age=300"})


@dashboard.get("/page.js")
async def get_script() -> Response:
    """What keeps the page up to date."""
    return Response(_file("monitor.js"), media_type="text/javascript", headers={"Cache-Control": "max-age=300"})


def _values(service: Service, key: Key, days: int) -> dict[str, Any]:
    now_ms = service.clock.now_ms()
    overview = read_overview(service.store.database, key.tenant, days, now_ms)
    release = service.production.release if service.production else None
    found = alarms(service.store, key.tenant)
    return {
        "key": key,
        "days": days,
        "choices": DAYS,
        "now": day_and_time(now_ms),
        "latest": [day_and_time(one.received_ms) for one in service.store.events(key.tenant, KINDS, 0, 1, newest=True)],
        "tiles": _tiles(overview),
        "whole": overview.whole,
        "trends": trend_panels(overview),
        "contest": contest(overview, release),
        "slices": _slices(overview),
        "signals": [SHORT[signal] for signal in SIGNALS],
        "troubles": worst(service.store, key.tenant),
        "open": [(day_and_time(one.opened_ms), one.opened) for one in found if one.closed is None],
        "past": [
            (day_and_time(one.opened_ms), day_and_time(one.closed_ms or 0), one.opened) for one in found if one.closed
        ],
        "advice": advise(service.store.database, found, release),
        "missing": service.lookout.missing(key.tenant),
        "policy": service.lookout.policy,
        "failing": _failing(service),
        "notices": _notices(service, key, overview.since),
        "release": release,
        "lineage": _lineage(service),
    }


def _failing(service: Service) -> list[str]:
    """Why something is not as it should be: writing, watching, or the registry."""
    found = service.writer.failing, service.lookout.failing, service.production and service.production.failing
    return [why for why in found if why]


def _tiles(overview: Overview) -> list[dict[str, str]]:
    """The five rates of these days with their intervals, then lengths and times."""
    tiles = []
    for signal in SIGNALS:
        tally = overview.whole.tally(signal)
        told = cell(rate(tally), shares=True)
        of = "thumbs" if signal == "thumb_down" else "drafts"
        tiles.append(
            {
                "name": TITLES[signal],
                "value": told.value,
                "meaning": f"{told.interval or 'no interval'} · of {tally.trials:,} {of}",
            }
        )
    for measure, unit in UNITS.items():
        told = median_cell(overview.histograms.get(measure, {}), unit)
        tiles.append({"name": unit.name, "value": told.value, "meaning": told.interval or "no interval"})
    return tiles


def _slices(overview: Overview) -> list[dict[str, Any]]:
    """The largest categories, the rest of them together."""
    ranked = sorted(overview.by_category.items(), key=lambda one: (-one[1].drafts, one[0]))
    rest = Counts()
    for _, counts in ranked[_CATEGORIES:]:
        rest += counts
    shown = [(name or "no category", counts) for name, counts in ranked[:_CATEGORIES]]
    shown += [(f"{len(ranked) - _CATEGORIES} others", rest)] if len(ranked) > _CATEGORIES else []
    return [
        {
            "name": name,
            "drafts": f"{counts.drafts:,}",
            "cells": [cell(rate(counts.tally(signal)), shares=True) for signal in SIGNALS],
        }
        for name, counts in shown
    ]


def _notices(service: Service, key: Key, since: str) -> list[tuple[str, str, int]]:
    """Reason, what it means, how often: the tenant's own, and what came without a valid key."""
    counts: Counter[str] = Counter()
    for tenant in (key.tenant, NOBODY):
        for notice in service.store.notices(since, tenant):
            counts[notice.reason] += notice.count
    return [(reason.replace("_", " "), _REASONS.get(reason, ""), count) for reason, count in counts.most_common()]


def _lineage(service: Service) -> Lineage | None:
    """Of the model in production, else of the folder that the service was given."""
    if service.production and (incumbent := service.production.release.incumbent):
        return lineage(service.production.folder(service.production.release.candidates[incumbent]))
    return lineage(service.model) if service.model else None


def _login(status: int, problem: str) -> HTMLResponse:
    return _html("login.html.j2", status, problem=problem, hours=SESSION_HOURS)


def _html(template: str, status: int, **values: Any) -> HTMLResponse:
    return HTMLResponse(page(template, _FOLDER, **values), status, _HEADERS)


@cache
def _file(name: str, before: str = "") -> str:
    return before + (_FOLDER / name).read_text(encoding="utf-8")
