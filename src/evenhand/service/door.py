"""The way into the service: whose key it is, whether it may, how much it sends; each refusal has its status and is counted."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from evenhand.service.keys import Key, Keyring, Role
from evenhand.service.limits import DEPTH, EVENT_BYTES, Buckets, Limits, is_deep
from evenhand.service.lookout import Lookout
from evenhand.service.production import Production
from evenhand.service.store import NOBODY, Store
from evenhand.service.writer import Clock, Writer


class Refused(Exception):
    """A request that is not done: its status, the reason under which it is counted, and what to do."""

    def __init__(self, status: int, reason: str, message: str, retry_seconds: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_seconds = retry_seconds


@dataclass(frozen=True, slots=True)
class Service:
    """What every route works with; `production` is None where no registry tells of it, `model` a folder that may instead."""

    store: Store
    writer: Writer
    keyring: Keyring
    limits: Limits
    buckets: Buckets
    clock: Clock
    lookout: Lookout
    production: Production | None
    model: Path | None

    def notice(self, tenant: str, reason: str, count: int = 1) -> None:
        """Count something for the page."""
        self.writer.notice(tenant, reason, count)


def service_of(request: Request) -> Service:
    """The service that a request has come to."""
    found = request.app.state.service
    assert isinstance(found, Service)
    return found


async def admit(request: Request, role: Role) -> Key:
    """The key of a request that may do what needs `role`; raises Refused (401, 403)."""
    service = service_of(request)
    if service.keyring.stale:
        await run_in_threadpool(service.keyring.read)
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    key = service.keyring.find(given.strip()) if scheme.lower() == "bearer" else None
    if key is None:
        raise _counted(
            service, NOBODY, Refused(401, "unauthorised", "send `Authorization: Bearer KEY` with a valid key.")
        )
    if not key.may(role):
        refused = Refused(403, "forbidden", f"this key may {key.role}; what you ask needs a key with the role {role}.")
        raise _counted(service, key.tenant, refused)
    request.scope["evenhand.tenant"] = key.tenant
    return key


async def read_body(request: Request, key: Key, limit_bytes: int) -> bytes:
    """The whole body; raises Refused (413, 408) as soon as it is too large, before the rest is read."""
    service = service_of(request)
    too_large = Refused(413, "too_large", f"the body is larger than {limit_bytes} bytes; send less at a time.")
    announced = request.headers.get("content-length", "0")
    if not announced.isdecimal() or int(announced) > limit_bytes:
        raise _counted(service, key.tenant, too_large)
    parts, size = [], 0
    try:
        async with asyncio.timeout(service.limits.body_seconds):
            async for part in request.stream():
                size += len(part)
                if size > limit_bytes:
                    raise _counted(service, key.tenant, too_large)
                parts.append(part)
    except TimeoutError as error:
        raise _counted(service, key.tenant, Refused(408, "too_slow", "the body did not arrive in time.")) from error
    return b"".join(parts)


def meter(request: Request, key: Key, events: int) -> None:
    """Raises Refused (429) where the key has sent more than its share."""
    service = service_of(request)
    if wait := service.buckets.take(key.id, events):
        refused = Refused(
            429, "rate_limited", f"this key sends more than {service.limits.events_per_second:g} events a second.", wait
        )
        raise _counted(service, key.tenant, refused)


def refuse_deep(request: Request, key: Key, body: bytes, depth: int) -> None:
    """Raises Refused (400) for JSON that nests deeper than `depth`."""
    if is_deep(body, depth):
        raise _counted(
            service_of(request), key.tenant, Refused(400, "too_deep", f"the JSON nests deeper than {depth} levels.")
        )


async def read_small_body(request: Request, key: Key) -> bytes:
    """The body of a request that holds one small object; raises Refused (400, 408, 413)."""
    body = await read_body(request, key, EVENT_BYTES)
    refuse_deep(request, key, body, DEPTH)
    return body


def _counted(service: Service, tenant: str, refused: Refused) -> Refused:
    service.notice(tenant, refused.reason)
    return refused
