"""S4, S6, S7: replays add nothing, a noisy key harms only itself, a full queue says so, and no key opens another's door.

python reliability/svc_doors.py --replays 10000 --seconds 10 --fuzz 200
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from ground import verdict

import apsw
import httpx

from evenhand.service.keys import make_key
from evenhand.service.store import existing_store

from served import Served

RATE = 300
CANARY = "canary-of-the-first-tenant"
EVENT_ROUTES = ("/v1/events", "/v1/events/batch")
BODIES = {"/v1/keys": {"role": "read"}, "/v1/erasures": {"what": "actor", "name": "nobody"}}
PAGES = ("text/html", "text/css", "text/javascript", "image/", "font/")


def event(name: str, **changes: object) -> dict:
    about = {"id": name, "kind": "draft", "conversation": CANARY, "draft": f"d{name}", "model": "m", "text": CANARY}
    return about | {"at": datetime.now(UTC).isoformat()} | changes


def replays(served: Served, count: int) -> bool:
    """S4: the same events again and again; another body under a known id."""
    batch = [event(f"replay-{at}") for at in range(500)]
    write = served.keys["write"]
    found: Counter[str] = Counter()
    for _ in range(1 + count // len(batch)):
        answer = patient(served, "/v1/events/batch", write, batch)
        found.update(answer.json()["outcomes"])
    other = patient(served, "/v1/events", write, event("replay-0", text="other"))
    with existing_store(str(served.folder)) as store:
        rows = store.head()[0]
    print(f"S4: {dict(found)}; other content {other.status_code}; {rows} rows", flush=True)
    return found == {"stored": 500, "replayed": count // 500 * 500} and other.status_code == 409 and rows == 500


def patient(served: Served, path: str, key: str, body: object) -> httpx.Response:
    """The answer that is not a 429."""
    while (answer := served.ask("POST", path, key, json=body)).status_code == 429:
        time.sleep(float(answer.headers["Retry-After"]) / 4)
    return answer


def noise(served: Served, keys: list[str], seconds: float) -> bool:
    """S6: one key sends ten times its quota; three others keep at least 95 % of what they had."""
    alone = quiet_ones(served, keys[1:], seconds, "alone")
    ending, heard = threading.Event(), Counter[int]()
    loud = threading.Thread(target=shout, args=(served, keys[0], ending, heard))
    loud.start()
    beside = quiet_ones(served, keys[1:], seconds, "beside")
    ending.set()
    loud.join()
    print(
        f"S6: others {alone} events alone, {beside} beside a key that sent {10 * RATE}/s and heard {dict(heard)}",
        flush=True,
    )
    return beside >= 0.95 * alone and heard[429] > 0 and set(heard) == {200, 429}


def quiet_ones(served: Served, keys: list[str], seconds: float, name: str) -> int:
    """How many events keys at a third of their quota get through, sent one at a time at a steady pace."""

    def send(at: int) -> int:
        headers = {"Authorization": f"Bearer {keys[at]}"}
        taken, until = 0, time.monotonic() + seconds
        with httpx.Client(base_url=served.url, headers=headers, trust_env=False, timeout=30) as http:
            for number in range(int(seconds * 20)):
                time.sleep(max(0.0, until - seconds + number / 20 - time.monotonic()))
                taken += http.post("/v1/events", json=event(f"{name}-{at}-{number}")).status_code == 200
        return taken

    with ThreadPoolExecutor(len(keys)) as pool:
        return sum(pool.map(send, range(len(keys))))


def shout(served: Served, key: str, ending: threading.Event, heard: Counter) -> None:
    """Ten times the quota, in batches of a tenth of a second."""
    headers, number = {"Authorization": f"Bearer {key}"}, 0
    began = time.monotonic()
    with httpx.Client(base_url=served.url, headers=headers, trust_env=False, timeout=30) as http:
        while not ending.is_set():
            batch = [event(f"loud-{number}-{at}", text="x") for at in range(RATE)]
            heard[http.post("/v1/events/batch", json=batch).status_code] += 1
            number += 1
            time.sleep(max(0.0, began + number / 10 - time.monotonic()))


def full_queue(served: Served, keys: list[str]) -> bool:
    """S6: while the database is held, events wait until no more may; those get 503 and nothing acknowledged is lost."""
    batches = [[event(f"queue-{at}-{number}", text="x") for number in range(2 * RATE)] for at in range(len(keys))]
    with ThreadPoolExecutor(len(keys)) as pool:
        with held(served.folder / "events.db"):
            asked = [
                pool.submit(served.ask, "POST", "/v1/events/batch", key, json=batch)
                for key, batch in zip(keys, batches)
            ]
            time.sleep(3)
        answers = [one.result() for one in asked]
    full = [answer for answer in answers if answer.status_code == 503]
    with existing_store(str(served.folder)) as store:
        kept = {own.id for own in store.events("default", ("draft",), limit=100_000)}
    taken = {body["id"] for answer, batch in zip(answers, batches) if answer.status_code == 200 for body in batch}
    refused = {body["id"] for answer, batch in zip(answers, batches) if answer.status_code == 503 for body in batch}
    statuses = Counter(answer.status_code for answer in answers)
    told = all("Retry-After" in answer.headers and answer.json()["reason"] == "queue_full" for answer in full)
    print(f"S6: a held database: {dict(statuses)}; {len(taken - kept)} acknowledged are lost", flush=True)
    return bool(full) and told and taken <= kept and not refused & kept and set(statuses) == {200, 503}


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Nobody else can write meanwhile."""
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(5000)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


def matrix(served: Served, reader: str, stranger: str) -> tuple[int, int]:
    """S7: every route with no key, a bad one, one of another tenant, a reader's and a writer's: (as it should be, all)."""
    keys = {
        "none": None,
        "bad": "evk_" + "0" * 16 + "_" + "A" * 43,
        "other tenant": stranger,
        "read": reader,
        "write": served.keys["write"],
    }
    patient(served, "/v1/events", served.keys["write"], event("seen"))
    victim = served.ask("GET", "/v1/keys", served.keys["admin"]).json()[0]["id"]
    routes = served.ask("GET", "/openapi.json").json()["paths"]
    good = total = 0
    for path, methods in sorted(routes.items()):
        for method in sorted(methods):
            for who, key in keys.items():
                answer = ask(served, method, path.replace("{name}", victim), key)
                fine = may(who, method, path, answer)
                good, total = good + fine, total + 1
                if not fine:
                    print(f"S7: {who} {method} {path}: {answer.status_code} {answer.text[:200]}", flush=True)
    alive = victim in {own["id"] for own in served.ask("GET", "/v1/keys", served.keys["admin"]).json()}
    print(f"S7: {good} of {total} answers as they should be, over {len(routes)} paths", flush=True)
    return good + alive, total + 1


def ask(served: Served, method: str, path: str, key: str | None) -> httpx.Response:
    body = event(f"matrix-{key}")
    given = {"json": [body] if path.endswith("batch") else BODIES.get(path, body)} if method == "post" else {}
    return served.ask(method.upper(), path, key, **given)


def may(who: str, method: str, path: str, answer: httpx.Response) -> bool:
    """Whether an answer is one that this key may get; no route may fail, or tell a stranger what is not the stranger's."""
    done, tells = answer.is_success, CANARY in answer.text
    if answer.status_code >= 500:
        return False
    match who:
        case "none" | "bad":
            return not tells and (not done or path == "/healthz" or answer.headers["Content-Type"].startswith(PAGES))
        case "other tenant":
            return not tells and not (done and method == "delete")
        case "read":
            return not done or (method == "get" and path != "/v1/keys")
        case _:
            return not done or path == "/healthz" or (method == "post" and path in EVENT_ROUTES)


def fuzz(served: Served, examples: int) -> bool:
    """S7: schemathesis sends what the schema allows and what it does not; nothing answers 5xx."""
    line = [
        str(Path(sys.executable).with_name("st")),
        "run",
        f"{served.url}/openapi.json",
        "--header",
        f"Authorization: Bearer {served.keys['admin']}",
        "--checks",
        "not_a_server_error",
        "--max-examples",
        str(examples),
        "--seed",
        "1",
        "--no-color",
    ]
    if not Path(line[0]).exists():
        print("S7: schemathesis is not installed: skipped", flush=True)
        return True
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=served.folder)
    print("S7:", " / ".join(row for row in done.stdout.splitlines()[-14:] if row.strip()), flush=True)
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replays", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--fuzz", type=int, default=200, help="examples for each operation, 0 for none")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, Served(Path(scratch) / "events", "--rate", str(RATE)) as served:
        with existing_store(str(served.folder)) as store:
            writers = [make_key(store.database, "default", "write", 0) for _ in range(16)]
            reader = make_key(store.database, "default", "read", 0)
            stranger = make_key(store.database, "other", "admin", 0)
        # A key that is made through the service makes it read all of them again, at once.
        assert served.ask("POST", "/v1/keys", served.keys["admin"], json={"role": "read"}).status_code == 201
        found = [
            replays(served, asked.replays),
            noise(served, writers[:4], asked.seconds),
            full_queue(served, writers[4:]),
        ]
        good, total = matrix(served, reader, stranger)
    if asked.fuzz:
        with tempfile.TemporaryDirectory() as scratch, Served(Path(scratch) / "events") as served:
            found.append(fuzz(served, asked.fuzz))
    return verdict("S4 S6 S7 doors", good + sum(found), total + len(found), "as they should be")


if __name__ == "__main__":
    sys.exit(main())
