"""How much one key may send, how large and how deep: checked before anything is parsed."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

EVENT_BYTES = 65_536
BATCH_BYTES = 1_048_576
BATCH_EVENTS = 1000
DEPTH = 8

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Limits:
    """Events per second and key, how many it may send at once, and how many may wait to be written."""

    events_per_second: float = 5000.0
    burst_events: int = 10_000
    queue_events: int = 4096
    body_seconds: float = 10.0
    future_seconds: float = 300.0
    late_seconds: float = 86_400.0


@dataclass(slots=True)
class Buckets:
    """A token bucket for each key."""

    per_second: float
    burst: int
    now: Callable[[], float] = time.monotonic
    _levels: dict[str, tuple[float, float]] = field(default_factory=dict)

    def take(self, name: str, count: int) -> float:
        """Seconds to wait until `count` may pass, 0.0 where they do now.

        >>> clock = iter([0.0, 0.0, 0.25, 0.5])
        >>> buckets = Buckets(per_second=2.0, burst=1, now=lambda: next(clock))
        >>> [buckets.take("a", 1), buckets.take("a", 1), buckets.take("a", 1), buckets.take("a", 1)]
        [0.0, 0.5, 0.25, 0.0]
        """
        now = self.now()
        level, since = self._levels.get(name, (float(self.burst), now))
        level = min(float(self.burst), level + (now - since) * self.per_second)
        # What is larger than the whole bucket passes a full one, and is paid for afterwards.
        missing = min(count, self.burst) - level
        self._levels[name] = (level if missing > 0 else level - count, now)
        return missing / self.per_second if missing > 0 else 0.0


def is_deep(body: bytes, limit: int = DEPTH) -> bool:
    """Whether lists and objects nest deeper than `limit`, told without parsing.

    >>> is_deep(b'[' * 8), is_deep(b'[' * 9), is_deep(b'{"a": "[[[[[[[[["}')
    (False, True, False)
    """
    if body.count(b"[") + body.count(b"{") <= limit:
        return False
    depth = 0
    for mark in re.finditer(rb"[\[\]{}]", _STRING.sub(b"", body)):
        depth += 1 if mark[0] in b"[{" else -1
        if depth > limit:
            return True
    return False
