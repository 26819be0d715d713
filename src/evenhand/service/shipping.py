"""Events into a store or to a service, in groups: what the simulator and the drills send with."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import httpx

from evenhand.errors import UserError
from evenhand.service.event import read_event
from evenhand.service.store import Store

GROUP_EVENTS = 500
Tell = Callable[[int], None]


def into_store(store: Store, tenant: str, bodies: Iterable[dict[str, Any]], tell: Tell) -> int:
    """Append events as if each group were received when its last event happened; how many were new.

    `tell` hears how many are done. Raises DataError for a body that is no event.
    """
    done = stored = 0
    for group in _groups(bodies):
        events = [read_event(tenant, json.dumps(body)) for body in group]
        outcomes = store.append(events, max(event.at_ms for event in events)).outcomes
        done += len(group)
        stored += outcomes.count("stored")
        tell(done)
    return stored


def to_service(url: str, key: str, bodies: Iterable[dict[str, Any]], tell: Tell) -> int:
    """Post events in batches, waiting where the service says so; how many were new. Raises UserError where it refuses."""
    done = stored = 0
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, headers=headers, timeout=30.0, trust_env=False) as http:
        for group in _groups(bodies):
            answer = _posted(http, group)
            done += len(group)
            stored += answer["stored"]
            tell(done)
    return stored


def _posted(http: httpx.Client, group: list[dict[str, Any]]) -> dict[str, Any]:
    while True:
        try:
            answer = http.post("/v1/events/batch", json=group)
        except httpx.TransportError as error:
            raise UserError(f"{http.base_url} does not answer ({error!r}); start `evenhand monitor` there.") from error
        if answer.status_code not in (429, 503):
            break
        time.sleep(float(answer.headers.get("Retry-After", 1)))
    if answer.status_code != 200:
        raise UserError(f"{http.base_url} refuses the events ({answer.status_code}: {answer.text[:200]}).")
    found: dict[str, Any] = answer.json()
    return found


def _groups(bodies: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    rest = iter(bodies)
    while group := list(islice(rest, GROUP_EVENTS)):
        yield group
