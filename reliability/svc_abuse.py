"""S5: bodies too large, too deep or malformed, and clients that never finish: refused, and nobody else is kept waiting.

python reliability/svc_abuse.py --slow 100 --healthy 300
"""

import argparse
import json
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from ground import verdict
from svc_kill import draft

from served import Served

LIMIT = 64 * 1024
MOST_READ = 128 * 1024
MEMORY_MIB, HEALTHY_SECONDS = 50.0, 0.1


def refused(served: Served) -> list[bool]:
    """Each bad body with the status that is right for it."""
    write = served.keys["write"]
    large = b'{"id": "' + b"x" * LIMIT + b'"}'
    keys = json.dumps({f"k{at}": 0 for at in range(100_000)}).encode()
    bodies = {
        "64 KiB and a byte": (large[: LIMIT + 1], {413}),
        "the same in chunks without a length": (iter([large[:LIMIT], large[LIMIT:]]), {413}),
        "10,000 deep": (b"[" * 10_000 + b"]" * 10_000, {400, 413, 422}),
        "100,000 keys": (keys, {413}),
        "no JSON": (b'{"id": ', {400}),
        "no UTF-8": (b'{"id": "\xff"}', {400}),
        "another form": (b'{"id": 7}', {400, 422}),
    }
    good = []
    for name, (body, wanted) in bodies.items():
        status = served.ask("POST", "/v1/events", write, content=body).status_code
        print(f"{name}: {status}", flush=True)
        good.append(status in wanted)
    return [*good, read_before_refusal(served) <= MOST_READ]


def read_before_refusal(served: Served) -> int:
    """How many bytes of an endless body the service takes before it hangs up, to the nearest 16 KiB."""
    with socket.create_connection(("127.0.0.1", served.port)) as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        door.sendall(header(served) + b"Transfer-Encoding: chunked\r\n\r\n")
        door.settimeout(2)
        sent, piece = 0, b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
        with suppress(OSError):
            while sent < 64 * LIMIT and not answered(door):
                door.sendall(piece)
                sent += 0x4000
                time.sleep(0.01)  # so that an answer is seen before the next piece is sent
    print(f"an endless body: refused after {sent // 1024} KiB", flush=True)
    return sent


def answered(door: socket.socket) -> bool:
    door.setblocking(False)
    try:
        return door.recv(64, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return False
    finally:
        door.settimeout(2)


def header(served: Served) -> bytes:
    lines = (
        "POST /v1/events HTTP/1.1",
        f"Host: 127.0.0.1:{served.port}",
        f"Authorization: Bearer {served.keys['write']}",
    )
    return "".join(f"{line}\r\n" for line in lines).encode()


def slow_ones(served: Served, count: int) -> Iterator[socket.socket]:
    """Clients that send a header and half a body, a byte now and then, and never the rest."""
    for _ in range(count):
        door = socket.create_connection(("127.0.0.1", served.port))
        door.sendall(header(served) + b"Content-Length: 60000\r\n\r\n" + b" " * 30_000)
        yield door


def beside_the_slow(served: Served, slow: int, healthy: int) -> list[bool]:
    """Memory, and how long a client that behaves waits, while `slow` clients never finish."""
    before = served.memory_mib()
    with ExitStack() as doors:
        open_ones = [doors.enter_context(door) for door in slow_ones(served, slow)]
        times = []
        for at in range(healthy):
            began = time.perf_counter()
            assert (
                served.ask("POST", "/v1/events", served.keys["write"], content=draft(f"healthy-{at}")).status_code
                == 200
            )
            times.append(time.perf_counter() - began)
            if at % 10 == 0:
                for door in open_ones:
                    with suppress(OSError):  # it was hung up on, as it should be in time
                        door.send(b" ")
        grown = served.memory_mib() - before
    times.sort()
    late = times[int(0.99 * len(times))]
    print(
        f"beside {slow} slow clients: memory {grown:+.1f} MiB, 99 % of {healthy} events within {late * 1000:.0f} ms",
        flush=True,
    )
    return [grown < MEMORY_MIB, late < HEALTHY_SECONDS]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slow", type=int, default=100)
    parser.add_argument("--healthy", type=int, default=300)
    parser.add_argument("--any-speed", action="store_true", help="do not judge how long a client waits")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, Served(Path(scratch) / "events") as served:
        good = refused(served) + beside_the_slow(served, asked.slow, asked.healthy)
        alive = served.ask("GET", "/healthz").status_code == 200
    if asked.any_speed:
        good[-1] = True
    return verdict("S5 abuse", sum(good) if alive else 0, len(good), "as they should be")


if __name__ == "__main__":
    sys.exit(main())
