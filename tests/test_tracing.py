"""Spans of requests: off unless configured, one tree from request to search, sent to where OTEL_* says."""

import queue
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NoOpTracer

from cmir.errors import ConfigError
from serve import tracing
from serve.asgi import create_app
from tests.serve_doubles import FakeGallery, pixels, png, running, tone, wav

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
RECEIVER = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(RECEIVER, raising=False)
    make = tracing.tracer
    make.cache_clear()
    yield
    make.cache_clear()


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Where the spans of this process go."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "tracer", lambda: provider.get_tracer("test"))
    return exporter


def by_name(spans: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in spans.get_finished_spans()}


def test_a_request_and_its_stages_are_one_tree_under_the_clients_span(spans: InMemorySpanExporter) -> None:
    with running(create_app(FakeGallery().engine())) as http:
        spans.clear()
        asked = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "r1", "Authorization": "Bearer secret-key"}
        assert http.post("/v1/search/image?k=2", content=png(pixels("rgb", 0)), headers=asked).status_code == 200
    found = by_name(spans)
    request = found["POST /v1/search/image"]
    assert found.keys() == {"POST /v1/search/image", "decode", "encode", "search"}
    assert request.parent is not None
    assert (f"{request.context.trace_id:032x}", f"{request.parent.span_id:016x}") == (TRACE, PARENT)
    for stage in ("decode", "encode", "search"):
        parent = found[stage].parent
        assert parent is not None
        assert parent.span_id == request.context.span_id
    told = {"http.route": "/v1/search/image", "http.response.status_code": 200, "cmir.request_id": "r1"}
    assert told.items() <= dict(request.attributes or {}).items()
    assert (found["search"].attributes or {})["cmir.queue_ms"] >= 0
    assert "secret-key" not in "".join(span.to_json() for span in spans.get_finished_spans())


def test_queries_at_once_keep_their_stages_apart(spans: InMemorySpanExporter) -> None:
    with running(create_app(FakeGallery().engine())) as http:
        spans.clear()
        threads = [
            threading.Thread(target=http.post, args=("/v1/search/speech",), kwargs={"content": wav(tone(i))})
            for i in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    traces: dict[int, list[str]] = {}
    for span in spans.get_finished_spans():
        traces.setdefault(span.context.trace_id, []).append(span.name)
    assert [sorted(names) for names in traces.values()] == 6 * [
        sorted(["POST /v1/search/speech", "decode", "encode", "search"])
    ]


def test_a_failure_of_ours_is_an_error_of_the_span_and_tells_nothing_more(spans: InMemorySpanExporter) -> None:
    gallery = FakeGallery()
    with running(create_app(gallery.engine())) as http:
        spans.clear()
        next(iter(gallery.embedders.values())).fails = True
        assert http.post("/v1/search/image", content=png(pixels("rgb", 0))).status_code == 500
    request = by_name(spans)["POST /v1/search/image"]
    assert not request.status.is_ok


def test_another_process_goes_on_with_the_span(spans: InMemorySpanExporter) -> None:
    with tracing.stage_span("encode"):
        carrier = tracing.carried()
    with tracing.stage_span("encode.replica", carrier):
        pass
    here, there = spans.get_finished_spans()
    assert there.parent is not None
    assert there.parent.span_id == here.context.span_id


@pytest.mark.parametrize("settings", [{}, {RECEIVER: "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"}])
def test_nothing_is_traced_unless_it_is_configured(settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert isinstance(tracing.tracer(), NoOpTracer)


def test_traces_that_cannot_be_sent_are_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RECEIVER, "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigError, match=r"traces cannot be sent.*127\.0\.0\.1:9.*cmir\[traces\]"):
        create_app(FakeGallery().engine())


def test_spans_arrive_where_otel_variables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    received: queue.Queue[ExportTraceServiceRequest] = queue.Queue()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.put(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        monkeypatch.setenv(RECEIVER, f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        with tracing.stage_span("search"):
            pass
        sent = received.get(timeout=20).resource_spans[0]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    names = {attribute.key: attribute.value.string_value for attribute in sent.resource.attributes}
    assert names["service.name"] == "cmir"
    assert [span.name for span in sent.scope_spans[0].spans] == ["search"]
