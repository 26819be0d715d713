"""Spans as an OpenTelemetry collector receives them: one a request, with its route and status, under the sender's."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from fastapi.testclient import TestClient

from evenhand.service.app import make_app, make_service, protected
from evenhand.service.keys import make_key
from evenhand.service.place import open_database
from evenhand.service.traces import traced

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def collector():
    """A collector on loopback, and the bodies it was sent."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra [traces] is not installed")
    bodies: list[bytes] = []
    arrived = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()
            arrived.set()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/traces", bodies, arrived
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_collector_gets_a_span_a_request(collector, tmp_path, monkeypatch):
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    endpoint, bodies, arrived = collector
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    database = open_database(str(tmp_path / "events.db"))
    service = make_service(database)
    key = make_key(database, "default", "read", 0)
    service.keyring.read()
    with TestClient(traced(protected(make_app(service)), endpoint), base_url="http://127.0.0.1") as client:
        client.get("/v1/alarms", headers={"Authorization": f"Bearer {key}", "traceparent": f"00-{TRACE}-{PARENT}-01"})
        assert arrived.wait(20)
    database.close()
    (span,) = [
        span
        for body in bodies
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    found = {attribute.key: attribute.value for attribute in span.attributes}
    assert span.name == "GET /v1/alarms"
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert found["http.response.status_code"].int_value == 200
    assert found["http.route"].string_value == "/v1/alarms"
    assert key.encode() not in b"".join(bodies)
