"""Events of a small production, for tests: a store in a folder and what happened to its replies."""

import itertools
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from evenhand.files import canonical_json
from evenhand.service.event import Event, read_event
from evenhand.service.place import open_database
from evenhand.service.store import Store

START_MS = int(datetime(2026, 11, 2, 8, tzinfo=UTC).timestamp() * 1000)
_NUMBERS = itertools.count()


def event(kind: str, name: str, draft: str, at_ms: int, **fields) -> Event:
    """Any event; what is None is left out."""
    about = {
        "id": name,
        "kind": kind,
        "draft": draft,
        "conversation": f"c-{draft}",
        "at": datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(),
    }
    given = {key: value for key, value in fields.items() if value is not None}
    return read_event("default", canonical_json(about | given))


class Production:
    """A store, and short words for what happens; each event comes a minute after the one before."""

    def __init__(self, store: Store) -> None:
        self.store, self.minute = store, 0

    def happen(self, kind: str, draft: str, name: str | None = None, **fields) -> str:
        name = name or f"{kind}-{draft}-{next(_NUMBERS)}"
        self.minute += 1
        at_ms = fields.pop("at_ms", START_MS + 60_000 * self.minute)
        outcomes = self.store.append([event(kind, name, draft, at_ms, **fields)], at_ms).outcomes
        assert outcomes == ("stored",), outcomes
        return name

    def draft(self, draft: str, prompt: str | list | None, text: str, **fields) -> str:
        about = {"model": "harbor-2", "category": "delivery", "prompt": prompt, "text": text}
        return self.happen("draft", draft, f"draft-{draft}", **about | fields)


@contextmanager
def production(folder: Path):
    """A production whose store is `folder`/events.db."""
    folder.mkdir(parents=True, exist_ok=True)
    database = open_database(str(folder / "events.db"))
    try:
        yield Production(Store(database))
    finally:
        database.close()
