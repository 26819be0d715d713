"""Durable events a second and their latency, with keys, checks, limits, sums and the chain on (S1).

python reliability/monitor_load.py --seconds 20 --clients 32
"""

import argparse
import asyncio
import json
import tempfile
from pathlib import Path

import numpy as np

from evenhand.service.chain import verify
from evenhand.service.database import open_database

from load_client import load
from monitor_service import start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--database", default=None)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=given.folder)) / "monitor"
    folder.mkdir()
    service = start(folder, *(["--database", given.database] if given.database else []))
    asyncio.run(load(service.port, service.keys["write"], 4, 1.0, "warm"))
    sent = asyncio.run(load(service.port, service.keys["write"], given.clients, given.seconds, "load"))
    code = service.stop()
    milliseconds = np.array(sent.seconds) * 1000
    database = open_database(given.database or str(folder / "events.db"))
    checked = verify(database)
    database.close()
    found = {
        "clients": given.clients,
        "events_per_second": round(len(sent.acknowledged) / given.seconds, 1),
        "statuses": sent.statuses,
        "ms": {
            name: round(float(np.percentile(milliseconds, share)), 1)
            for name, share in (("p50", 50), ("p95", 95), ("p99", 99), ("p99.9", 99.9))
        },
        "max_ms": round(float(milliseconds.max()), 1),
        "stopped_with": code,
        "stored": checked.events,
        "problem": checked.problem,
        "ready_seconds": round(service.ready_seconds, 2),
    }
    print(json.dumps(found, indent=2))
    assert sent.statuses == {200: len(sent.acknowledged)}
    assert checked.problem is None
    assert checked.events >= len(sent.acknowledged)


if __name__ == "__main__":
    main()
