"""For the bot: events go to a file first and to the service from there, so that neither its absence nor a crash loses one.

>>> from tempfile import TemporaryDirectory
>>> with TemporaryDirectory() as folder, Client("http://127.0.0.1:9", "evk_...", folder, send=False) as client:
...     draft = client.draft("conversation-7", "Your parcel is on its way.", model="harbor-2", category="delivery")
...     client.thumb(draft, up=True)
...     client.waits
True

Without `send=False` a thread sends what waits.
"""

import json
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import httpx

from evenhand.service.sender import Sender
from evenhand.service.spool import Spool


@dataclass(frozen=True, slots=True)
class Draft:
    """A reply that was drafted: what later events of it need to name."""

    id: str
    conversation: str
    model: str
    category: str | None
    text: str


class Client:
    """Writes events to a spool folder and sends them from there, in order, on a thread of its own.

    An event whose method has returned is in the spool file; with `durable`, on the disk. It is sent until the
    service has acknowledged it, under the same id, so it counts once. What the service refuses for good, such as an
    event of more than 65,536 bytes, lands in `refused/events.jsonl` in the folder. Processes may share a folder: each
    has a file of its own, and sends what a dead one has left.
    """

    def __init__(self, url: str, key: str, spool: str | Path, durable: bool = False, send: bool = True) -> None:
        folder = Path(spool)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._durable = durable
        self._spool = Spool.new(folder)
        self._lock = threading.Lock()
        headers = {"Authorization": f"Bearer {key}"}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=10.0, trust_env=False)
        self._sender = Sender(self._http, self._spool, self._lock) if send else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def waits(self) -> bool:
        """Whether events of this client are not acknowledged yet."""
        return self._spool.waits

    @property
    def problem(self) -> str | None:
        """Why the last attempt to send failed, None where it did not."""
        return self._sender.problem if self._sender else None

    def draft(
        self,
        conversation: str,
        text: str,
        *,
        model: str,
        category: str | None = None,
        prompt: str | Sequence[Mapping[str, str]] | None = None,
        latency_ms: int | None = None,
        actor: str | None = None,
    ) -> Draft:
        """The bot has drafted a reply; `prompt` is the conversation before it: turns as role and content, or one text."""
        draft = Draft(uuid.uuid4().hex, conversation, model, category, text)
        self.send(draft, "draft", text=text, prompt=prompt, latency_ms=latency_ms, actor=actor)
        return draft

    def thumb(self, draft: Draft, up: bool, *, actor: str | None = None, reason: str | None = None) -> None:
        """Somebody has judged the reply."""
        self.send(draft, "thumb", up=up, actor=actor, reason=reason)

    def edit(self, draft: Draft, sent: str, *, actor: str | None = None, reason: str | None = None) -> None:
        """An agent has changed the reply, and sent that."""
        self.send(draft, "edit", text=draft.text, sent=sent, actor=actor, reason=reason)

    def sent(self, draft: Draft, *, actor: str | None = None) -> None:
        """The reply went out as it was."""
        self.send(draft, "sent", actor=actor)

    def takeover(
        self, draft: Draft, *, sent: str | None = None, actor: str | None = None, reason: str | None = None
    ) -> None:
        """A person has taken the conversation over; `sent` is what they wrote instead."""
        self.send(draft, "takeover", sent=sent, actor=actor, reason=reason)

    def escalation(self, draft: Draft, *, actor: str | None = None, reason: str | None = None) -> None:
        """The conversation was handed on to a specialist."""
        self.send(draft, "escalation", actor=actor, reason=reason)

    def abandoned(self, draft: Draft, *, actor: str | None = None) -> None:
        """The customer has left."""
        self.send(draft, "abandoned", actor=actor)

    def send(self, draft: Draft, kind: str, **fields: Any) -> None:
        """Any event of a reply; raises StorageError where the spool's disk is full, and then nothing was written."""
        event = {
            "id": uuid.uuid4().hex,
            "kind": kind,
            "conversation": draft.conversation,
            "draft": draft.id,
            "at": datetime.now(UTC).isoformat(),
            "model": draft.model,
            "category": draft.category,
            **fields,
        }
        line = json.dumps({name: value for name, value in event.items() if value is not None}, ensure_ascii=False)
        with self._lock:
            self._spool.append(line.encode() + b"\n", self._durable)
        if self._sender:
            self._sender.wake()

    def flush(self, seconds: float = 10.0) -> bool:
        """Wait until everything is acknowledged, at most `seconds`; whether it is."""
        until = time.monotonic() + seconds
        while self.waits and time.monotonic() < until:
            time.sleep(0.005)
        return not self.waits

    def close(self, seconds: float = 5.0) -> None:
        """Send what can be sent in `seconds`; the rest stays in the folder for the next client."""
        if self._sender:
            self.flush(seconds)
            self._sender.stop()
        self._spool.close(remove=not self.waits)
        self._http.close()
