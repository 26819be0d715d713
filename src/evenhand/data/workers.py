"""Where the batches of a map are worked on: here, in processes beside this one, or on a Ray cluster."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

from evenhand.data.measure import Map
from evenhand.errors import UserError

WORTH_IT = 20_000
"""Judgments from which processes of their own are faster than one, whose start they cost."""

_AHEAD = 4  # batches that wait for each worker, so that none idles and memory stays bounded


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


@contextmanager
def workers(count: int) -> Iterator[Map]:
    """A map over `count` processes, in order; the plain one where `count` is 1. All give the same results."""
    if count <= 1:
        yield map
        return
    # Not forked: this process may hold threads, and a fork keeps their locks for ever.
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:

        def run(function: Callable[[Any], Any], batches: Iterable[Any]) -> Iterator[Any]:
            waiting = deque[Any]()
            for batch in batches:
                waiting.append(pool.submit(function, batch))
                if len(waiting) > _AHEAD * count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

        yield run


@contextmanager
def ray_workers() -> Iterator[Map]:
    """A map over a Ray cluster: the one at RAY_ADDRESS, else one started here for as long as this lasts.

    Raises UserError where Ray is not installed.
    """
    try:
        import ray  # noqa: PLC0415
    except ImportError as error:
        raise UserError("Ray is not installed: pip install 'evenhand[ray]', or leave `--ray` out.") from error
    address = os.environ.get("RAY_ADDRESS")
    ray.init(address=address, configure_logging=False, log_to_driver=False, include_dashboard=False)
    try:

        def run(function: Callable[[Any], Any], batches: Iterable[Any]) -> Iterator[Any]:
            task = ray.remote(function)
            ahead = _AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
            waiting = deque[Any]()
            for batch in batches:
                waiting.append(task.remote(batch))
                if len(waiting) > ahead:
                    yield ray.get(waiting.popleft())
            while waiting:
                yield ray.get(waiting.popleft())

        yield run
    finally:
        ray.shutdown()
