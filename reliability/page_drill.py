"""The page over many events: how long it takes, and how much memory the service that makes it has ever held.

    python reliability/page_drill.py --events 10000000

The events are loaded in bulk, as rows with their text and indices, a year of six models and eight categories, without the
chain of hashes, which the page does not read. Then the service is started as a user starts it, and asked for its page over
four weeks and over a year. Passed where the slowest takes 2 s at most and the memory stayed within 500 MiB.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src")]

import apsw

from evenhand.service.bins import bin_of
from evenhand.service.place import open_database
from evenhand.service.sqlite import Sqlite
from evenhand.service.keys import make_key

DAYS, MODELS = 365, 6
CATEGORIES = ("account", "billing", "delivery", "other", "outage", "returns", "shipping", "technical")
# Of ten events six are drafts, the others what became of one of them.
KINDS = ("draft",) * 6 + ("takeover", "edit", "thumb", "sent")
LONGEST, SLOWEST = 1200, 9000
_SECONDS, _MIB = 2.0, 500

_EVENTS = """
WITH RECURSIVE every(n) AS (SELECT :first UNION ALL SELECT n + 1 FROM every WHERE n < :last)
INSERT INTO events (seq, tenant, id, kind, conversation, draft, model, category, actor, at_ms, received_ms, up, length,
    distance, latency_ms, body, salt, digest, link)
SELECT n, 'default', printf('e%09d', n), kind, printf('c%09d', n / 20), printf('d%09d', draft),
    'harbor-' || (1 + :day * :models / :days), category, 'agent-' || n % 40, :at + n % 86400, :at + n % 86400,
    CASE kind WHEN 'thumb' THEN n % 3 > 0 END, CASE WHEN kind IN ('draft', 'edit') THEN 80 + n * 7919 % :longest END,
    CASE kind WHEN 'edit' THEN n * 31 % 90 / 100.0 END, CASE kind WHEN 'draft' THEN 300 + n * 104729 % :slowest END,
    json_object('id', printf('e%09d', n), 'kind', kind, 'conversation', printf('c%09d', n / 20), 'draft',
        printf('d%09d', draft), 'at', :iso, 'model', 'harbor-' || (1 + :day * :models / :days), 'up', json('true'),
        'text', 'Your parcel has left our warehouse. It is with you within two days.', 'sent', 'It is on its way.'),
    '', '', ''
FROM (SELECT n, :kinds ->> (n % 10) AS kind, n - max(0, n % 10 - 5) AS draft, :categories ->> (n / 10 % 8) AS category FROM every)
"""
_SLICE = "SELECT :name, tenant, model, category"
_ROLLUPS = f"""INSERT INTO rollups {_SLICE}, kind, count(*), coalesce(sum(up), 0), coalesce(sum(length), 0), count(length),
    coalesce(sum(distance), 0), count(distance), coalesce(sum(latency_ms), 0), count(latency_ms)
    FROM events WHERE seq BETWEEN :first AND :last GROUP BY tenant, model, category, kind"""
_BINS = f"""INSERT INTO bins {_SLICE}, :measure, bin, count(*) FROM events JOIN temp.places ON place = {{column}}
    WHERE seq BETWEEN :first AND :last AND kind = :kind GROUP BY tenant, model, category, bin"""


def load(file: Path, events: int) -> None:
    """A store of that many events, the last of today."""
    open_database(str(file)).close()
    connection = apsw.Connection(str(file))
    for pragma in ("synchronous=OFF", "cache_size=-400000", "temp_store=MEMORY"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("CREATE TEMP TABLE places (place INTEGER PRIMARY KEY, bin INTEGER)")
    places = [(place, bin_of(place)) for place in range(LONGEST + SLOWEST + 400)]
    connection.executemany("INSERT INTO temp.places VALUES (?, ?)", places)
    start = datetime.now(UTC).replace(hour=0, minute=0) - timedelta(days=DAYS - 1)
    for day in range(DAYS):
        _day(connection, day, start + timedelta(days=day), (events * day // DAYS, events * (day + 1) // DAYS - 1))
        if day % 20 == 0:
            print(f"day {day} of {DAYS} is loaded", flush=True)
    connection.execute("UPDATE head SET seq = ?", (events,))
    connection.close()


def _day(connection: apsw.Connection, day: int, at: datetime, span: tuple[int, int]) -> None:
    """One day's events, their sums and their histograms."""
    first, last = span[0] + 1, span[1] + 1
    if last < first:
        return
    values = {"first": first, "last": last, "day": day, "days": DAYS, "models": MODELS, "name": at.date().isoformat()}
    values |= {"at": round(at.timestamp() * 1000), "iso": at.isoformat(), "longest": LONGEST, "slowest": SLOWEST}
    values |= {"kinds": json.dumps(KINDS), "categories": json.dumps(CATEGORIES)}
    with connection:
        connection.execute(_EVENTS, values)
        connection.execute(_ROLLUPS, values)
        for measure, column, kind in (
            ("length", "length", "draft"),
            ("latency", "latency_ms", "draft"),
            ("distance", "CAST(distance * 100 AS INTEGER)", "edit"),
        ):
            connection.execute(_BINS.format(column=column), values | {"measure": measure, "kind": kind})


def page(port: int, key: str, days: int) -> tuple[float, int]:
    """Seconds until the page over so many days has come, and its bytes."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/?days={days}", headers={"Authorization": f"Bearer {key}"}
    )
    began = time.perf_counter()
    with urllib.request.urlopen(request, timeout=120) as answer:
        return time.perf_counter() - began, len(answer.read())


def started(folder: Path, port: int) -> subprocess.Popen:
    """The service as a process, once it answers."""
    command = [sys.executable, "-m", "evenhand", "monitor", "--folder", str(folder), "--port", str(port), "--quiet"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5).close()
            return process
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    process.kill()
    raise SystemExit("the service did not answer within a minute")


def peak_mib(process: subprocess.Popen) -> float:
    """The most memory that the process has held at once."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--port", type=int, default=8791)
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="more where the machine is shared")
    parser.add_argument("--settle", type=float, default=6, help="seconds for the first look at all rates")
    parser.add_argument("--folder", type=Path, help="keep the store here, and use it again")
    given = parser.parse_args()
    with TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "events.db"
        if not file.exists():
            began = time.monotonic()
            load(file, given.events)
            size = file.stat().st_size / 2**30
            print(f"{given.events:,} events loaded in {time.monotonic() - began:.0f} s, {size:.2f} GiB", flush=True)
        database = Sqlite(file)
        key = make_key(database, "default", "read", 0)
        database.close()
        process = started(folder, given.port)
        try:
            time.sleep(given.settle)
            taken = [(days, *page(given.port, key, days)) for days in (28, 365, 28, 365, 7, 91)]
            peak = peak_mib(process)
        finally:
            process.terminate()
            process.wait(30)
    for days, seconds, size in taken:
        print(f"page over {days} days: {seconds:.2f} s, {size / 1024:.0f} KiB")
    slowest = max(seconds for _, seconds, _ in taken)
    print(f"page drill: {given.events:,} events, slowest page {slowest:.2f} s, memory {peak:.0f} MiB at most")
    return 0 if slowest <= given.seconds and peak <= _MIB else 1


if __name__ == "__main__":
    sys.exit(main())
