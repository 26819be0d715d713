"""The client's thread: what waits in the spool goes to the service until the service has acknowledged it."""

import json
import random
import threading
import time
from pathlib import Path

import httpx

from evenhand.service.limits import EVENT_BYTES
from evenhand.service.spool import Spool

_BATCH_EVENTS = 500
_BATCH_BYTES = 900_000
_LONGEST_PAUSE_SECONDS = 30.0
# A whole batch that cannot be taken for what one of its events is: they are sent one by one.
_BLAMED = {400, 413, 422}


class Later(Exception):
    """The service does not take events now; `seconds` as it asked."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class Sender:
    """Sends a spool, and those that dead processes have left in its folder, in order and as often as it takes."""

    def __init__(self, http: httpx.Client, spool: Spool, lock: threading.Lock) -> None:
        self._http = http
        self._spool = spool
        self._lock = lock
        self._wake = threading.Event()
        self._open = True
        self.problem: str | None = None
        self._thread = threading.Thread(target=self._run, name="evenhand-client", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Something has come into the spool."""
        self._wake.set()

    def stop(self) -> None:
        """End the thread after the request that it is in."""
        self._open = False
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        failures = 0
        while self._open:
            self._wake.clear()
            try:
                self._send_all(self._spool)
                self._send_left()
                failures, self.problem = 0, None
                self._wake.wait(1.0)
            except Exception as error:  # told, whatever it is; the next attempt begins where this one ended
                failures += 1
                self.problem = str(error) or type(error).__name__
                pause = min(_LONGEST_PAUSE_SECONDS, 0.1 * 2 ** min(failures, 10)) * random.uniform(0.5, 1.0)
                self._pause(max(pause, error.seconds if isinstance(error, Later) else 0.0))

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self._open and time.monotonic() < until:
            time.sleep(0.02)

    def _send_left(self) -> None:
        """What dead processes have left goes out too, and their files away."""
        for left in Spool.left_in(self._spool.path.parent):
            done = False
            try:
                done = self._send_all(left)
            finally:
                left.close(remove=done)
            if not done:
                return

    def _send_all(self, spool: Spool) -> bool:
        """Whether no whole line waits any more; False where this client was closed before."""
        while self._open:
            with self._lock:
                lines = spool.first(_BATCH_EVENTS, _BATCH_BYTES)
            if not lines:
                return True
            self._post(lines)
            with self._lock:
                spool.sent(lines)
        return False

    def _post(self, lines: list[bytes]) -> None:
        """Send lines until each is acknowledged or refused for good; raises Later, httpx.HTTPError."""
        if len(lines[0]) > _BATCH_BYTES:  # alone, and larger than any service reads
            message = f"the event is larger than {EVENT_BYTES} bytes"
            self._set_aside([(lines[0], {"reason": "too_large", "message": message})])
            return
        headers = {"Content-Type": "application/x-ndjson"}
        answer = self._http.post("/v1/events/batch", content=b"".join(lines), headers=headers)
        if answer.status_code in (200, 207):
            refused = answer.json()["refused"]
            self._set_aside([(lines[int(place)], problem) for place, problem in refused.items()])
        elif answer.status_code not in _BLAMED:
            seconds = answer.headers.get("retry-after", "")
            message = f"the service answers {answer.status_code}: {answer.text[:200]}"
            raise Later(message, float(seconds) if seconds.isdecimal() else 0.0)
        elif len(lines) > 1:
            for line in lines:
                self._post([line])
        else:
            self._set_aside([(lines[0], answer.json())])

    def _set_aside(self, refused: list[tuple[bytes, object]]) -> None:
        """Keep what the service refuses for good where a person finds it."""
        if not refused:
            return
        path: Path = self._spool.path.parent / "refused" / "events.jsonl"
        path.parent.mkdir(exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            for line, problem in refused:
                file.write(json.dumps({"problem": problem, "event": line.decode().strip()}, ensure_ascii=False) + "\n")
