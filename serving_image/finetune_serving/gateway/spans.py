"""A span of each request for an OpenTelemetry collector, between the caller's span and the engine's.

Imported only where a collector is configured. Spans are sent by a thread of their own: a collector that is
slow or away costs spans, never requests.
"""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from finetune_serving.gateway.ledger import Call

_EXPORT_SECONDS = 5.0
_W3C = TraceContextTextMapPropagator()


def exporting(endpoint: str) -> TracerProvider:
    """Sends spans to `endpoint` (OTLP over HTTP)."""
    name = os.environ.get("OTEL_SERVICE_NAME", "finetune-gateway")
    resource = Resource.create({"service.name": name, "service.instance.id": socket.gethostname()})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint, timeout=_EXPORT_SECONDS)))
    return provider


def send_rest(provider: TracerProvider) -> None:
    """Send what is left, as far as the collector takes it in time; there are no spans after that."""
    ending = threading.Thread(target=provider.shutdown, daemon=True)
    ending.start()
    ending.join(_EXPORT_SECONDS)


class ServerSpans:
    """The spans of a gateway's requests, made by `provider`."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("finetune_serving")

    @contextmanager
    def of(self, request: web.Request, call: Call) -> Iterator[None]:
        """The span of a call, which tells at its end what became of it; the engine's spans are below it."""
        above = _W3C.extract(request.headers)
        span = self._tracer.start_span(_name(request), context=above, kind=SpanKind.SERVER)
        call.trace = _headers(set_span_in_context(span, above))
        try:
            yield
        finally:
            span.set_attributes(_attributes(request, call))
            if call.failed or call.status >= 500:
                span.set_status(StatusCode.ERROR)
            span.end()


def _headers(context: Context) -> dict[str, str]:
    headers: dict[str, str] = {}
    _W3C.inject(headers, context=context)
    return headers


def _name(request: web.Request) -> str:
    """Paths that are not served may be anything, so they name no span."""
    resource = request.match_info.route.resource
    return request.method if resource is None else f"{request.method} {resource.canonical}"


def _attributes(request: web.Request, call: Call) -> dict[str, str | int]:
    """By OpenTelemetry's conventions for HTTP and generative AI; what is not known is left out."""
    told: dict[str, str | int] = {
        "http.request.method": request.method,
        "http.response.status_code": call.status,
        "gen_ai.request.model": call.alias,
        "gen_ai.response.model": call.version,
        "gen_ai.usage.input_tokens": call.prompt_tokens,
        "gen_ai.usage.output_tokens": call.generated_tokens,
        "finetune.key": call.key,
        "finetune.request_id": call.request_id,
    }
    return {name: value for name, value in told.items() if value}
