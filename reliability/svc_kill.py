"""S2: the service is killed under load, again and again: what was acknowledged is there once, and it is back at once.

python reliability/svc_kill.py --kills 100
"""

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from ground import verdict

import httpx

from evenhand.service.chain import verify
from evenhand.service.store import existing_store

from served import Served

READY_SECONDS = 2.0
CLIENTS = 4


class Sender(threading.Thread):
    """One client that sends events one after another, each until it is acknowledged, as the spool does."""

    def __init__(self, served: Served, number: int, ending: threading.Event) -> None:
        super().__init__()
        self.served, self.number, self.ending = served, number, ending
        self.acknowledged: list[str] = []
        self.refused: list[str] = []
        self.repeated = 0

    def run(self) -> None:
        headers = {"Authorization": f"Bearer {self.served.keys['write']}"}
        with httpx.Client(base_url=self.served.url, headers=headers, trust_env=False, timeout=10) as http:
            while not self.ending.is_set():
                self._send(http, f"{self.number}-{len(self.acknowledged)}")

    def _send(self, http: httpx.Client, name: str) -> None:
        body = draft(name)
        tries = 0
        while True:  # until it is known, even when the drill is over
            tries += 1
            with suppress(httpx.TransportError):
                answer = http.post("/v1/events", content=body)
                if answer.status_code == 200:
                    self.acknowledged.append(name)
                    self.repeated += tries > 1
                else:
                    self.refused.append(f"{name}: {answer.status_code} {answer.text}")
                return
            time.sleep(0.01)


def draft(name: str) -> bytes:
    about = {"id": name, "kind": "draft", "conversation": f"c{name}", "draft": f"d{name}", "model": "m"}
    return json.dumps(
        about | {"at": datetime.now(UTC).isoformat(), "text": "Your parcel is on its way. " * 40}
    ).encode()


def drill(kills: int, seed: int, folder: Path) -> tuple[int, int, list[float]]:
    """(kills after which all was well, events acknowledged, seconds until each restart was ready)."""
    draw = random.Random(seed)
    served = Served(folder)
    first, waits = served.ready_seconds, []
    ending = threading.Event()
    senders = [Sender(served, number, ending) for number in range(CLIENTS)]
    for sender in senders:
        sender.start()
    good, checked = 0, [0] * CLIENTS
    for _ in range(kills):
        time.sleep(draw.uniform(0.02, 0.4))
        served.kill()
        counts = [len(sender.acknowledged) for sender in senders]
        names = [
            name
            for sender, start, stop in zip(senders, checked, counts, strict=True)
            for name in sender.acknowledged[start:stop]
        ]
        served.start()
        waits.append(served.ready_seconds)
        with existing_store(str(folder)) as store:
            lost = missing(store, names)
        good += not lost
        checked = counts
        if lost:
            print(f"lost: {lost[:5]}", flush=True)
    ending.set()
    for sender in senders:
        sender.join()
    served.kill()
    acknowledged = [name for sender in senders for name in sender.acknowledged]
    refused = [words for sender in senders for words in sender.refused]
    with existing_store(str(folder)) as store:
        stored = ids(store)
        sound = integrity(store), verify(store.database).problem
    twice = len(stored) - len(set(stored))
    lost = set(acknowledged) - set(stored)
    again = sum(sender.repeated for sender in senders)
    print(
        f"{len(acknowledged)} events acknowledged, {again} of them sent again after a kill; lost {len(lost)}, stored twice "
        f"{twice}, stored and never acknowledged {len(set(stored) - set(acknowledged))}, refused {len(refused)}; "
        f"integrity {sound[0]}, chain {sound[1] or 'whole'}; first start {first:.2f} s",
        flush=True,
    )
    whole = not lost and not twice and not refused and sound == ("ok", None)
    return (good if whole else 0), len(acknowledged), waits


def missing(store, acknowledged: list[str]) -> list[str]:
    """Those that are not stored."""
    with store.database.reading() as execute:
        sql = "SELECT id FROM events WHERE id = :id"
        return [name for name in acknowledged if not execute(sql, {"id": name})]


def ids(store) -> list[str]:
    with store.database.reading() as execute:
        return [name for (name,) in execute("SELECT id FROM events")]


def integrity(store) -> str:
    with store.database.reading() as execute:
        return execute("PRAGMA integrity_check")[0][0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--any-start", action="store_true", help="do not judge how long a start takes")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        good, _, waits = drill(asked.kills, asked.seed, Path(scratch) / "events")
    waits.sort()
    late = sum(seconds > READY_SECONDS for seconds in waits)
    print(
        f"ready after a kill in {waits[len(waits) // 2]:.2f} s in the median, {waits[-1]:.2f} s at most; {late} over 2 s"
    )
    if not asked.any_start:
        good -= late
    return verdict("S2 kill", max(0, good), asked.kills, "kills with nothing lost or doubled, and ready in 2 s")


if __name__ == "__main__":
    sys.exit(main())
