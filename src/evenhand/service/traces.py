"""Spans of every request through OpenTelemetry, where a collector is configured; nothing is sent otherwise."""

from typing import Any

from evenhand.errors import UserError
from evenhand.service.guard import Application, Message, Receive, Scope, Send


class Traced:
    """One span a request, child of the sender's where it sends `traceparent`."""

    def __init__(self, app: Application, provider: Any, propagator: Any) -> None:
        self._app = app
        self._tracer = provider.get_tracer("evenhand.service")
        self._propagator = propagator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on within its span."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        with self._tracer.start_as_current_span(scope["method"], self._propagator.extract(carrier)) as span:

            async def send_seen(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                await send(message)

            try:
                await self._app(scope, receive, send_seen)
            finally:
                route = getattr(scope.get("route"), "path", "none")
                span.update_name(f"{scope['method']} {route}")
                span.set_attribute("http.request.method", scope["method"])
                span.set_attribute("http.route", route)


def traced(app: Application, endpoint: str) -> Traced:
    """`app` with its spans sent to an OTLP endpoint (http://host:4318/v1/traces); raises UserError without the extra."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415
    except ImportError as error:
        raise UserError("traces need the extra: pip install 'evenhand[traces]'.") from error
    provider = TracerProvider(resource=Resource.create({"service.name": "evenhand"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    return Traced(app, provider, TraceContextTextMapPropagator())
