"""S1: durable events a second over HTTP, and how long an answer takes, with 32 clients and everything on.

python reliability/svc_load.py --seconds 20 --clients 32
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from ground import verdict

from evenhand.service.chain import verify
from evenhand.service.store import existing_store

from served import Served

EVENT_BYTES = 1229  # 1.2 KiB
WANTED_PER_SECOND = 1500
WANTED_P99_SECONDS = 0.050


def drive(port: int, key: str, clients: int, seconds: float, name: str, found: "multiprocessing.Queue") -> None:
    """In a process of its own: so many clients, each with one request in flight, on keep-alive connections."""
    import asyncio

    import uvloop

    async def client(number: int) -> list[float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        waits, until, at = [], time.monotonic() + seconds, 0
        while time.monotonic() < until:
            body = event(f"{name}-{number}-{at}")
            head = (
                f"POST /v1/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {key}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            began = time.perf_counter()
            writer.write(head.encode() + body)
            status = await reader.readline()
            length = 0
            while (line := await reader.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            await reader.readexactly(length)
            waits.append(time.perf_counter() - began)
            assert b" 200 " in status, status
            at += 1
        writer.close()
        return waits

    async def all_clients() -> list[float]:
        return [wait for waits in await asyncio.gather(*map(client, range(clients))) for wait in waits]

    found.put(uvloop.run(all_clients()))


def event(name: str) -> bytes:
    """A draft of 1.2 KiB."""
    about = {
        "id": name,
        "kind": "draft",
        "conversation": f"c{name}",
        "draft": f"d{name}",
        "model": "harbor-2",
        "category": "delivery",
        "latency_ms": 812,
        "at": datetime.now(UTC).isoformat(),
        "prompt": [{"role": "user", "content": "Where is my parcel? " * 20}],
    }
    bare = json.dumps(about | {"text": ""}).encode()
    return json.dumps(about | {"text": "x" * (EVENT_BYTES - len(bare))}).encode()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--clients", type=int, default=32)
    asked = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as scratch, Served(Path(scratch) / "events") as served:
        found = context.Queue()
        about = (served.port, served.keys["write"], asked.clients)
        for name, seconds in (("warm", min(2.0, asked.seconds)), ("run", asked.seconds)):
            driver = context.Process(target=drive, args=(*about, seconds, name, found))
            driver.start()
            waits = sorted(found.get(timeout=60 + asked.seconds))
            driver.join()
        memory = served.memory_mib()
        answer = served.ask("GET", "/v1/events", served.keys["admin"], params={"limit": 1})
        assert answer.status_code == 200
        with existing_store(str(served.folder)) as store:
            problem = verify(store.database).problem
            stored = sum(own.count for own in store.rollups())
    rate, p50, p99 = len(waits) / asked.seconds, waits[len(waits) // 2], waits[int(0.99 * len(waits))]
    print(
        f"{rate:.0f} durable events/s of {len(event('run-00-00000'))} bytes, {asked.clients} clients, n={len(waits)}: "
        f"p50 {1000 * p50:.1f} ms, p99 {1000 * p99:.1f} ms, longest {1000 * waits[-1]:.0f} ms; "
        f"{memory:.0f} MiB resident; {stored} stored, chain {problem or 'whole'}",
        flush=True,
    )
    fast = rate >= WANTED_PER_SECOND and p99 <= WANTED_P99_SECONDS
    return verdict("S1 load", int(fast and problem is None and stored >= len(waits)), 1, "load carried")


if __name__ == "__main__":
    sys.exit(main())
