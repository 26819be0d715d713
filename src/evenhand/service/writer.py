"""The one thread that writes: what waits goes into one transaction, and is acknowledged once that is on the disk."""

import asyncio
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from evenhand.errors import EvenhandError
from evenhand.service.batch import Outcome
from evenhand.service.database import DatabaseAway
from evenhand.service.event import Event
from evenhand.service.store import NOBODY, Store

_GROUP_EVENTS = 512
_NOTICE_SECONDS = 1.0
_JUMP_SECONDS = 60.0
_ENDED = "nothing is written any more: the thread that writes has ended; restart the service."


class QueueFull(EvenhandError):
    """More events wait to be written than the service holds; nothing of the request was taken."""


@dataclass(frozen=True, slots=True)
class Job:
    """One request's events, and where its answer is waited for."""

    events: Sequence[Event]
    answer: asyncio.Future[tuple[Outcome, ...]]
    loop: asyncio.AbstractEventLoop


@dataclass(slots=True)
class Clock:
    """Wall-clock milliseconds, and the times it was seen to jump against the clock that only counts."""

    wall: Callable[[], float] = time.time
    steady: Callable[[], float] = time.monotonic
    _offset: float | None = None

    def now_ms(self) -> int:
        """The wall clock."""
        return int(self.wall() * 1000)

    def now_iso(self) -> str:
        """The wall clock as ISO 8601, UTC, to the millisecond."""
        return datetime.fromtimestamp(self.now_ms() / 1000, UTC).isoformat(timespec="milliseconds")

    def jumped(self) -> bool:
        """Whether the wall clock has moved by more than a minute against the steady one since the last question."""
        offset = self.wall() - self.steady()
        before, self._offset = self._offset, offset
        return before is not None and abs(offset - before) > _JUMP_SECONDS


@dataclass(slots=True)
class Tally:
    """What the writer has done so far: transactions, their events and seconds, and why the last one failed, if it did."""

    groups: int = 0
    events: int = 0
    seconds: float = 0.0
    failures: int = 0
    failing: str | None = None


class Writer:
    """Takes events from an event loop's requests and writes them in groups on a thread of its own."""

    def __init__(self, store: Store, clock: Clock, queue_events: int = 4096) -> None:
        self.store = store
        self.clock = clock
        self.tally = Tally()
        self.waiting_events = 0
        self._limit = queue_events
        self._jobs: deque[Job] = deque()
        self._notices: Counter[tuple[str, str]] = Counter()
        self._noted = 0.0
        self._wake = threading.Condition()
        self._open = True
        self._thread = threading.Thread(target=self._run, name="evenhand-writer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Write what waits, and end the thread."""
        with self._wake:
            self._open = False
            self._wake.notify()
        self._thread.join()

    @property
    def failing(self) -> str | None:
        """Why nothing is written at present, None where all is well."""
        return _ENDED if self._ended else self.tally.failing

    @property
    def _ended(self) -> bool:
        """Whether the thread has ended, and nobody has told it to."""
        return self._open and self._thread.ident is not None and not self._thread.is_alive()

    def submit(self, events: Sequence[Event]) -> asyncio.Future[tuple[Outcome, ...]]:
        """What becomes of each event, once it is durable; raises at once QueueFull where no more may wait, and
        DatabaseAway where nobody writes any more."""
        if self._ended:
            raise DatabaseAway(_ENDED)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[tuple[Outcome, ...]] = loop.create_future()
        with self._wake:
            if self.waiting_events + len(events) > self._limit or not self._open:
                raise QueueFull(f"{self.waiting_events} events wait to be written; send these again in a second.")
            self.waiting_events += len(events)
            self._jobs.append(Job(events, answer, loop))
            self._wake.notify()
        return answer

    def notice(self, tenant: str, reason: str, count: int = 1) -> None:
        """Count something that happened at the door; written within a second or so."""
        with self._wake:
            self._notices[tenant, reason] += count

    def _run(self) -> None:
        while True:
            with self._wake:
                if not self._jobs and self._open:
                    self._wake.wait(_NOTICE_SECONDS)
                jobs, still_open = self._group(), self._open
            if jobs:
                self._write(jobs)
            if self.clock.jumped():
                self.notice(NOBODY, "clock_jump")
            self._write_notices(at_once=not still_open)
            if not jobs and not still_open:
                return

    def _group(self) -> list[Job]:
        jobs: list[Job] = []
        events = 0
        while self._jobs and (not jobs or events + len(self._jobs[0].events) <= _GROUP_EVENTS):
            jobs.append(self._jobs.popleft())
            events += len(jobs[-1].events)
        self.waiting_events -= events
        return jobs

    def _write(self, jobs: Sequence[Job]) -> None:
        began = time.perf_counter()
        events = [event for job in jobs for event in job.events]
        try:
            appended = self.store.append(events, self.clock.now_ms())
        except Exception as error:  # of whatever kind: each request hears of it, and the thread goes on
            self.tally.failures += 1
            self.tally.failing = str(error)
            _answer([(job, error) for job in jobs])
            return
        self.tally.failing = None
        self.tally.groups += 1
        self.tally.seconds += time.perf_counter() - began
        self.tally.events += len(events)
        with self._wake:
            self._notices.update(appended.notices)
        outcomes = iter(appended.outcomes)
        _answer([(job, tuple(next(outcomes) for _ in job.events)) for job in jobs])

    def _write_notices(self, at_once: bool) -> None:
        if not at_once and time.monotonic() - self._noted < _NOTICE_SECONDS:
            return
        with self._wake:
            notices, self._notices = self._notices, Counter()
        self._noted = time.monotonic()
        if not notices:
            return
        try:
            self.store.note(notices, self.clock.now_ms())
        except Exception:  # of whatever kind, such as no room now: they are counted with the next ones
            with self._wake:
                self._notices.update(notices)


def _answer(answers: Sequence[tuple[Job, tuple[Outcome, ...] | Exception]]) -> None:
    """Wake every loop once for all its requests."""
    for loop in {job.loop for job, _ in answers}:
        own = [(job.answer, found) for job, found in answers if job.loop is loop]
        if not loop.is_closed():
            loop.call_soon_threadsafe(_resolve, own)


def _resolve(answers: Sequence[tuple["asyncio.Future[tuple[Outcome, ...]]", tuple[Outcome, ...] | Exception]]) -> None:
    for answer, found in answers:
        if answer.done():  # its client has gone; what was written stays
            continue
        if isinstance(found, Exception):
            answer.set_exception(found)
        else:
            answer.set_result(found)
