"""Reading with a browser: a key typed once begins a session of some hours, whose cookie opens this page and nothing else.

Browsers send a cookie to every port of a host, so that another program there may see it: it is a random token of which
the store keeps the hash, never the key. Forms carry a token made of it, and must come from a page of exactly this
origin, port included.
"""

import asyncio
import hmac
import secrets
from urllib.parse import parse_qs, urlsplit

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool

from evenhand.files import sha256
from evenhand.service.database import Database
from evenhand.service.door import Refused, service_of
from evenhand.service.keys import Key, Role
from evenhand.service.store import NOBODY

COOKIE = "evenhand_session"
SESSION_HOURS = 12
_FORM_BYTES = 8192


def begin_session(database: Database, key: Key, now_ms: int) -> str:
    """The token of a new session of a key's holder."""
    token = secrets.token_urlsafe(32)
    until_ms = now_ms + SESSION_HOURS * 3_600_000
    with database.writing() as execute:
        execute("DELETE FROM sessions WHERE until_ms <= :now", {"now": now_ms})
        values = {"digest": sha256(token.encode()), "key": key.id, "until": until_ms}
        execute("INSERT INTO sessions (digest, key_id, until_ms) VALUES (:digest, :key, :until)", values)
    return token


def end_session(database: Database, token: str) -> None:
    """Make a token useless, if it is one."""
    with database.writing() as execute:
        execute("DELETE FROM sessions WHERE digest = :digest", {"digest": sha256(token.encode())})


def key_id_of(database: Database, token: str, now_ms: int) -> str | None:
    """The id of the key whose session `token` is, None where it is none or has ended; the key may be revoked by now."""
    values = {"digest": sha256(token.encode()), "now": now_ms}
    with database.reading() as execute:
        rows = execute("SELECT key_id FROM sessions WHERE digest = :digest AND until_ms > :now", values)
    return str(rows[0][0]) if rows else None


async def key_of(request: Request) -> Key | None:
    """The key in the header or of the cookie's session, None where there is none that is valid."""
    service = service_of(request)
    if service.keyring.stale:
        await run_in_threadpool(service.keyring.read)
    if bearer := _bearer(request):
        return service.keyring.find(bearer)
    if not (token := request.cookies.get(COOKIE)):
        return None
    name = await run_in_threadpool(key_id_of, service.store.database, token, service.clock.now_ms())
    return None if name is None else service.keyring.get(name)


def token_of(request: Request) -> str:
    """What a form of this reader's must carry."""
    return sha256(b"form " + (_bearer(request) or request.cookies.get(COOKIE, "")).encode())


async def decide(request: Request, role: Role) -> tuple[Key, dict[str, str]]:
    """The key and the fields of a form that a reader of this page has sent; raises Refused (401, 403, 408, 413)."""
    key = await key_of(request)
    fields = await read_form(request)
    if key is None:
        raise Refused(401, "unauthorised", "open the page and give a key first.")
    if not hmac.compare_digest(fields.get("token", "").encode(), token_of(request).encode()):
        raise Refused(403, "forged", "this form is of another page; load the page again.")
    if not key.may(role):
        raise Refused(403, "forbidden", f"this key may {key.role}; what you ask needs a key with the role {role}.")
    return key, fields


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a small form from a page of this very origin; raises Refused (403, 408, 413)."""
    service, origin = service_of(request), request.headers.get("origin", "")
    if urlsplit(origin).netloc != request.headers.get("host") or not origin.startswith(("http://", "https://")):
        service.notice(NOBODY, "forged")
        raise Refused(403, "forged", "forms are taken from this service's own page only.")
    body = b""
    try:
        async with asyncio.timeout(service.limits.body_seconds):
            async for part in request.stream():
                body += part
                if len(body) > _FORM_BYTES:
                    raise Refused(413, "too_large", f"a form has at most {_FORM_BYTES} bytes.")
    except TimeoutError as error:
        service.notice(NOBODY, "too_slow")
        raise Refused(408, "too_slow", "the form did not arrive in time; send it again.") from error
    return {name: values[0] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}


async def sign_in(request: Request, response: Response, key: Key) -> None:
    """Begin a session of `key` in the reader's cookie."""
    service = service_of(request)
    token = await run_in_threadpool(begin_session, service.store.database, key, service.clock.now_ms())
    response.set_cookie(
        COOKIE,
        token,
        SESSION_HOURS * 3600,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )


async def sign_out(request: Request, response: Response) -> None:
    """End the session in the reader's cookie."""
    if token := request.cookies.get(COOKIE):
        await run_in_threadpool(end_session, service_of(request).store.database, token)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")


def _bearer(request: Request) -> str:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else ""
