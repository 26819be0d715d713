"""What tests of the page share: events to fill a store with, the service on a real port, and a real browser."""

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import uvicorn

from evenhand.service.app import make_app, protected
from evenhand.service.door import Service
from evenhand.service.event import Event, EventForm, event_of

NOW = datetime.now(UTC)


def event(tenant: str, name: str, kind: str, **fields: Any) -> Event:
    """An event of now about the draft `name`, whose conversation it is too unless told otherwise."""
    told = {"conversation": f"c-{name}", "draft": name, "at": NOW, "id": f"{kind}-{name}"} | fields
    if kind == "draft":
        told = {"model": "harbor-2", "text": "Your parcel is on its way.", "category": "delivery"} | told
    return event_of(tenant, EventForm(kind=kind, **told))


@contextmanager
def served(service: Service) -> Iterator[str]:
    """The service's address while it runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(
        uvicorn.Config(protected(make_app(service)), host="127.0.0.1", port=port, log_level="error")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until = time.monotonic() + 30
        while not server.started and time.monotonic() < until:
            time.sleep(0.02)
        assert httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).status_code == 200
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless Chromium; the test is skipped by name where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no chromium on PATH")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


def signed_in(context: Any, url: str, key: str) -> Any:
    """A browser page on which the key was typed."""
    page = context.new_page()
    page.goto(url)
    page.fill("#key", key)
    page.keyboard.press("Enter")
    page.wait_for_selector("#headline")
    return page
