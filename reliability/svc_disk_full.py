"""S8: the disk fills under the service: it says so, goes on reading, loses nothing, and goes on by itself when there is room.

python reliability/svc_disk_full.py --rounds 5      (needs root for a small file system)
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count, islice
from pathlib import Path

from ground import small_disk, verdict

import httpx

from evenhand.service.chain import verify
from evenhand.service.store import existing_store

from served import Served

DISK_MIB = 32


def send(http: httpx.Client, names: Iterator[int], refusals: int, most: int) -> tuple[Counter, list[str]]:
    """Statuses of events sent until so many were refused, at most `most`, and the events that were acknowledged.

    A log that was folded into the database has room of its own, so that a full disk may be noticed late.
    """
    statuses, taken = Counter(), []
    for at in islice(names, most):
        about = {"id": f"e{at}", "kind": "draft", "conversation": "c", "draft": f"d{at}", "model": "m"}
        body = json.dumps(about | {"at": datetime.now(UTC).isoformat(), "text": "x" * 20_000})
        status = http.post("/v1/events", content=body).status_code
        statuses[status] += 1
        if status == 200:
            taken.append(f"e{at}")
        if statuses.total() - statuses[200] == refusals:
            break
    return statuses, taken


def fill(disk: Path) -> None:
    """Take all room that is left."""
    with (disk / "filler").open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(1 << 16))
        except OSError:
            pass


def drill(rounds: int, disk: Path) -> int:
    good, acknowledged, names = 0, [], count()
    with Served(disk / "events") as served:
        headers = {"Authorization": f"Bearer {served.keys['admin']}"}
        with httpx.Client(base_url=served.url, headers=headers, trust_env=False, timeout=30) as http:
            for _ in range(rounds):
                before, taken = send(http, names, 1, 20)
                acknowledged += taken
                fill(disk)
                full, taken = send(http, names, 20, 2000)
                acknowledged += taken
                reads = http.get("/v1/events", params={"limit": 10_000})
                read = set(acknowledged) <= {json.loads(line)["id"] for line in reads.text.splitlines()}
                health = http.get("/healthz").status_code
                (disk / "filler").unlink()
                after, taken = send(http, names, 1, 20)
                acknowledged += taken
                refused = {507, 503} & set(full)
                fine = set(before) == set(after) == {200} and refused and set(full) <= {200, 503, 507}
                fine = fine and reads.status_code == 200 and read and health == 503
                print(f"before {dict(before)}, full {dict(full)}, health {health}, after {dict(after)}", flush=True)
                good += bool(fine)
    with existing_store(str(disk / "events")) as store:
        stored = [own.id for own in store.events("default", ("draft",), limit=100_000)]
        problem = verify(store.database).problem
    lost = set(acknowledged) - set(stored)
    print(
        f"{len(acknowledged)} acknowledged, lost {len(lost)}, stored twice {len(stored) - len(set(stored))}; chain {problem or 'whole'}"
    )
    shutil.rmtree(disk / "events", ignore_errors=True)
    return good if not lost and problem is None and len(stored) == len(set(stored)) else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if os.geteuid() != 0:
            print("S8: a small file system needs root: skipped")
            return 0
        try:
            with small_disk(Path(scratch) / "disk", DISK_MIB) as disk:
                good = drill(asked.rounds, disk)
        except subprocess.CalledProcessError:
            print("S8: no file system can be mounted here: skipped")
            return 0
    return verdict(
        "S8 disk full", good, asked.rounds, "full disks told, read through, and left behind without a restart"
    )


if __name__ == "__main__":
    sys.exit(main())
