"""What Prometheus scrapes: the process's requests and writes, and the reading tenant's own events and notices."""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Histogram, generate_latest
from prometheus_client import Counter as PrometheusCounter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from evenhand.service.advice import advise
from evenhand.service.door import Service, admit, service_of
from evenhand.service.guard import Application, Message, Receive, Scope, Send
from evenhand.service.intake import REFUSALS
from evenhand.service.lookout import alarms

metrics = APIRouter()

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Meter:
    """Counts every request by route and status, and times it."""

    def __init__(self, app: Application) -> None:
        self._app = app
        self.registry = CollectorRegistry()
        labels = ("method", "route")
        self._requests = PrometheusCounter(
            "evenhand_requests", "Requests answered.", (*labels, "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "evenhand_request_seconds", "Time to answer.", labels, buckets=_SECONDS, registry=self.registry
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and count its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["evenhand.registry"] = self.registry
        began = time.perf_counter()
        status = 500

        async def send_seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_seen)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if route != "none" else "any"
            self._requests.labels(method, route, str(status)).inc()
            self._seconds.labels(method, route).observe(time.perf_counter() - began)


class TenantCollector(Collector):
    """One tenant's events and notices, as the store has counted them, and the state of the process's writer."""

    def __init__(self, service: Service, tenant: str) -> None:
        self._service = service
        self._tenant = tenant

    def collect(self) -> Iterator[Metric]:
        """Every family."""
        store, tally = self._service.store, self._service.writer.tally
        events = CounterMetricFamily("evenhand_events", "Events stored.", labels=("tenant", "model", "kind"))
        ups = CounterMetricFamily("evenhand_thumbs_up", "Thumbs that point up.", labels=("tenant", "model"))
        for model, kind, count, up in store.totals(self._tenant):
            events.add_metric((self._tenant, model, kind), count)
            if kind == "thumb":
                ups.add_metric((self._tenant, model), up)
        reasons: Counter[str] = Counter()
        for notice in store.notices(tenant=self._tenant):
            reasons[notice.reason] += notice.count
        notices = CounterMetricFamily("evenhand_notices", "Refused, replayed or late.", labels=("tenant", "reason"))
        for reason, count in sorted(reasons.items()):
            notices.add_metric((self._tenant, reason), count)
        yield from (events, ups, notices)
        yield from self._alarms()
        yield CounterMetricFamily("evenhand_write_groups", "Transactions of events.", value=tally.groups)
        yield CounterMetricFamily("evenhand_write_seconds", "Time spent in them.", value=tally.seconds)
        yield CounterMetricFamily("evenhand_write_failures", "Transactions that failed.", value=tally.failures)
        waiting = self._service.writer.waiting_events
        yield GaugeMetricFamily("evenhand_waiting_events", "Events that wait to be written.", value=waiting)

    def _alarms(self) -> Iterator[Metric]:
        """How often each alarm opened, which are open, and whether to roll back."""
        opened: Counter[tuple[str, str, str]] = Counter()
        still_open: Counter[tuple[str, str, str]] = Counter()
        found = alarms(self._service.store, self._tenant)
        for alarm in found:
            category = alarm.opened.category  # "" is of drafts without one, None of all drafts
            place = (alarm.opened.signal, "all" if category is None else "category", category or "")
            opened[place] += 1
            still_open[place] += alarm.closed is None
        labels = ("tenant", "signal", "scope", "category")
        times = CounterMetricFamily(
            "evenhand_alarms", "Alarms that opened, over all drafts or one category.", labels=labels
        )
        now = GaugeMetricFamily("evenhand_alarms_open", "Alarms that are open.", labels=labels)
        for labelled, count in sorted(opened.items()):
            times.add_metric((self._tenant, *labelled), count)
            now.add_metric((self._tenant, *labelled), still_open[labelled])
        yield from (times, now)
        production = self._service.production
        advice = advise(self._service.store.database, found, production.release) if production else None
        advised = float(advice is not None and advice.advised)
        yield GaugeMetricFamily("evenhand_rollback_advised", "1 where the figures say to roll back.", value=advised)
        missing = self._service.lookout.missing(self._tenant)
        yield GaugeMetricFamily("evenhand_drafts_missing", "Drafts to come before anything is watched.", value=missing)
        failing = float(self._service.lookout.failing is not None)
        yield GaugeMetricFamily("evenhand_lookout_failing", "1 where the last look failed.", value=failing)


def grafana_dashboard() -> str:
    """A Grafana dashboard over these metrics, as JSON."""
    return (Path(__file__).parent / "page" / "grafana.json").read_text(encoding="utf-8")


@metrics.get("/metrics", response_class=Response, responses={status: REFUSALS[status] for status in (401, 403, 503)})
async def get_metrics(request: Request) -> Response:
    """In Prometheus' text format; needs a key that may read."""
    key = await admit(request, "read")
    own = CollectorRegistry()
    own.register(TenantCollector(service_of(request), key.tenant))
    text = await run_in_threadpool(generate_latest, own)
    return Response(text + generate_latest(request.scope["evenhand.registry"]), media_type=CONTENT_TYPE_LATEST)
