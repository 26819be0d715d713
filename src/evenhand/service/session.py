"""Reading with a browser: a key typed once, kept in a cookie that no script and no other site can use.

Forms carry a token made of the key, and must come from a page of exactly this origin, port included: cookies do not
tell ports apart, and another program on the same machine may serve pages too.
"""

import hmac
from urllib.parse import parse_qs, urlsplit

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool

from evenhand.files import sha256
from evenhand.service.door import Refused, service_of
from evenhand.service.keys import Key, Role

COOKIE = "evenhand_key"
_DAYS = 30
_FORM_BYTES = 8192


async def key_of(request: Request) -> Key | None:
    """The key in the cookie or header, None where there is none that is valid."""
    service = service_of(request)
    if service.keyring.stale:
        await run_in_threadpool(service.keyring.read)
    return service.keyring.find(_given(request))


def token_of(request: Request) -> str:
    """What a form of this reader's must carry."""
    return sha256(b"form " + _given(request).encode())


async def decide(request: Request, role: Role) -> tuple[Key, dict[str, str]]:
    """The key and the fields of a form that a reader of this page has sent; raises Refused (401, 403, 413)."""
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
    """The fields of a small form from a page of this very origin; raises Refused (403, 413)."""
    origin = request.headers.get("origin", "")
    if urlsplit(origin).netloc != request.headers.get("host") or not origin.startswith(("http://", "https://")):
        service_of(request).notice("", "forged")
        raise Refused(403, "forged", "forms are taken from this service's own page only.")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _FORM_BYTES:
            raise Refused(413, "too_large", f"a form has at most {_FORM_BYTES} bytes.")
    return {name: values[0] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}


def keep(request: Request, response: Response, given: str) -> None:
    """Put a key into the reader's cookie."""
    response.set_cookie(
        COOKIE, given, _DAYS * 86_400, httponly=True, samesite="strict", secure=request.url.scheme == "https"
    )


def _given(request: Request) -> str:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else request.cookies.get(COOKIE, "")
