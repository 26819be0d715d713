"""Clients that each send one event at a time over a connection of their own, and remember what was acknowledged when.

A plain socket client: on two cores, a client library would be most of what is measured.
"""

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

CATEGORIES = ("refund", "delivery", "account", "billing", "returns", "warranty", "address", "voucher")
KINDS = ("draft", "draft", "draft", "sent", "sent", "edit", "thumb", "takeover")
WORDS = [
    "your",
    "parcel",
    "is",
    "on",
    "its",
    "way",
    "and",
    "should",
    "arrive",
    "tomorrow",
    "before",
    "noon",
    "at",
    "the",
    "address",
    "you",
    "gave",
    "us",
    "last",
    "week",
]


@dataclass(slots=True)
class Sent:
    """What became of one client's events."""

    acknowledged: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    attempted: list[str] = field(default_factory=list)


def event(name: str, rng: random.Random) -> bytes:
    """An event of about 1.2 KiB."""
    kind = rng.choice(KINDS)
    text = " ".join(rng.choices(WORDS, k=55))
    found = {
        "id": name,
        "kind": kind,
        "conversation": f"conversation-{name}",
        "draft": f"draft-{name}",
        "at": datetime.now(UTC).isoformat(),
        "model": rng.choice(("harbor-1", "harbor-2")),
        "category": rng.choice(CATEGORIES),
        "actor": f"agent-{rng.randrange(40)}",
        "prompt": [
            {"role": "system", "content": "You answer for Harbor Support. " * 6},
            {"role": "user", "content": " ".join(rng.choices(WORDS, k=55))},
        ],
        "text": text,
        "latency_ms": rng.randrange(200, 4000),
    }
    if kind == "edit":
        found["sent"] = text[: len(text) // 2]
    if kind == "thumb":
        found["up"] = rng.random() < 0.8
    return json.dumps(found).encode()


async def client(port: int, key: str, name: str, until: float, sent: Sent) -> None:
    """Send until the time is over or the service is gone."""
    rng = random.Random(name)
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return
    head = f"POST /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\nContent-Length: ".encode()
    number = 0
    try:
        while time.perf_counter() < until:
            number += 1
            body = event(f"{name}-{number}", rng)
            began = time.perf_counter()
            sent.attempted.append(f"{name}-{number}")
            writer.write(head + b"%d\r\n\r\n" % len(body) + body)
            status = await answer(reader)
            sent.statuses[status] = sent.statuses.get(status, 0) + 1
            if status == 200:
                sent.seconds.append(time.perf_counter() - began)
                sent.acknowledged.append(f"{name}-{number}")
    except (OSError, asyncio.IncompleteReadError, ValueError):
        return
    finally:
        writer.close()


async def answer(reader: asyncio.StreamReader) -> int:
    """Read one answer whole; its status."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    await reader.readexactly(length)
    return int(head[9:12])


async def load(port: int, key: str, clients: int, seconds: float, prefix: str) -> Sent:
    """All clients at once; what became of their events together."""
    until = time.perf_counter() + seconds
    found = [Sent() for _ in range(clients)]
    await asyncio.gather(*(client(port, key, f"{prefix}-{n}", until, one) for n, one in enumerate(found)))
    total = Sent()
    for one in found:
        total.acknowledged += one.acknowledged
        total.attempted += one.attempted
        total.seconds += one.seconds
        for status, count in one.statuses.items():
            total.statuses[status] = total.statuses.get(status, 0) + count
    return total
