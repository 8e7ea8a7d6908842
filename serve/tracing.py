"""OpenTelemetry spans of requests and stages, off unless OTEL_EXPORTER_OTLP_ENDPOINT (or the one for traces) is set.

    POST /v1/search/speech      one span a request, the child of the client's span where it sends a traceparent
      decode   encode   search  what its query goes through; waiting for a batch is the attribute `cmir.queue_ms`
        encode.replica          split: in the process that encodes

Everything else is what the standard OTEL_* variables say. The tracer is our own, not the process's: Ray may have one.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Final

from opentelemetry import propagate
from opentelemetry.trace import NoOpTracer, Span, SpanKind, StatusCode, Tracer
from starlette.datastructures import Headers

from cmir.errors import ConfigError

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_SERVICE: Final = "cmir"


@cache
def tracer() -> Tracer:
    """What makes the spans of this process; one that does nothing where tracing is not configured.

    Raises ConfigError where it is configured and the exporter is not installed.
    """
    endpoint = next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), None)
    if endpoint is None or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return NoOpTracer()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        what, fix = "traces cannot be sent", "pip install 'cmir[traces]', or unset the variable"
        raise ConfigError(what, seen="no exporter installed", where=f"for {endpoint}", fix=fix) from error
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    name = os.environ.get("OTEL_SERVICE_NAME", _SERVICE)
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider.get_tracer(_SERVICE)


@contextmanager
def request_span(method: str, path: str, headers: Headers) -> Iterator[Span]:
    """The span of one request, under that of the client where it told one."""
    parent = propagate.extract(headers)
    attributes = {"http.request.method": method, "url.path": path}
    with tracer().start_as_current_span(method, context=parent, kind=SpanKind.SERVER, attributes=attributes) as span:
        yield span


def end_request(span: Span, *, method: str, route: str, status: int, request_id: str, key_name: str | None) -> None:
    """What is known of a request only at its end."""
    if span.is_recording():
        span.update_name(f"{method} {route}")
        span.set_attributes({"http.route": route, "http.response.status_code": status, "cmir.request_id": request_id})
        if key_name is not None:
            span.set_attribute("cmir.key", key_name)
        if status >= 500:
            span.set_status(StatusCode.ERROR)


@contextmanager
def stage_span(name: str, carrier: Mapping[str, str] | None = None) -> Iterator[Span]:
    """A stage of the query that is under way here, or of the one that `carrier` came from."""
    context = propagate.extract(carrier) if carrier else None
    with tracer().start_as_current_span(name, context=context) as span:
        yield span


def carried() -> dict[str, str]:
    """The span under way as headers, for another process to go on with."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier


def note_queue(span: Span, queue_s: float) -> None:
    """How long the stage waited for its batch."""
    span.set_attribute("cmir.queue_ms", round(1000 * queue_s, 3))
