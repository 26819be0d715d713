"""The page on which people vote, served on loopback: no cookie, no outside resource, every text escaped."""

import re
import secrets
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, quote

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.middleware.trustedhost import TrustedHostMiddleware

from evenhand.evaluation.ballot import Ballot
from evenhand.evaluation.html import page
from evenhand.evaluation.report import shown as visible

_MOST_BYTES = 4096
_VOTER = re.compile(r"[\w .@-]{1,40}")
CHOICES = ("left", "right", "tie")


def vote_app(ballot: Ballot) -> FastAPI:
    """The application; only requests to a loopback name are answered, only forms of its own page are taken."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"])
    token = secrets.token_urlsafe(16)

    @app.get("/")
    def question(voter: str = "") -> Response:
        name = voter.strip() if _VOTER.fullmatch(voter.strip()) else ""
        nonce = secrets.token_urlsafe(16)
        return _secured(HTMLResponse(page("vote.html.j2", nonce=nonce, token=token, **_told(ballot, name))), nonce)

    @app.post("/vote")
    async def vote(request: Request) -> Response:
        form = await _form(request)
        voter, question, choice = (form.get(key, "") for key in ("voter", "question", "choice"))
        if not secrets.compare_digest(form.get("token", "").encode(), token.encode()):
            return PlainTextResponse("this form is of another page; load the page again.", 403)
        if not _VOTER.fullmatch(voter) or question not in ballot.questions or choice not in CHOICES:
            return PlainTextResponse("no such vote.", 400)
        ballot.vote(voter, question, choice, datetime.now(UTC).isoformat(timespec="seconds"))
        return RedirectResponse(f"/?voter={quote(voter)}", 303)

    return app


def _told(ballot: Ballot, voter: str) -> dict[str, Any]:
    following = ballot.next(voter) if voter else None
    prompt = following.question.prompt if following else ()
    return {
        "voter": voter,
        "done": ballot.done(voter),
        "total": len(ballot.questions),
        "shown": following.question.id if following else "",
        "prompt": [{"role": turn.role, "text": visible(turn.content, False)} for turn in prompt],
        "replies": [visible(text, False) for text in following.replies] if following else [],
    }


async def _form(request: Request) -> dict[str, str]:
    """The fields of a small form; nothing of a large one."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _MOST_BYTES:
            return {}
    fields = parse_qs(body.decode("utf-8", "replace"))
    return {name: values[0] for name, values in fields.items()}


def _secured(response: Response, nonce: str) -> Response:
    response.headers["content-security-policy"] = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; img-src data:; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    )
    response.headers["cache-control"] = "no-store"
    response.headers["referrer-policy"] = "no-referrer"
    response.headers["x-content-type-options"] = "nosniff"
    return response
