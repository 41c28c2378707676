"""Spans for an OpenTelemetry collector: what they tell, how they hang together, and a collector that is away."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestClient, TestServer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from finetune_serving.engine import engine_arguments, traces_endpoint
from finetune_serving.gateway.peers import Peers
from finetune_serving.gateway.spans import ServerSpans, exporting, send_rest
from tests.unit.serving.gateway.builders import BODY, CHAT, VERSION, Client, Engine, Setup
from tests.unit.serving.test_engine_flags import options

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CALLER = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "a=b", "x-request-id": "mine"}


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
async def client(setup: Setup, spans: InMemorySpanExporter) -> AsyncIterator[Client]:
    """A client of a gateway that keeps its spans."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    setup.gateway.span = ServerSpans(provider).of
    async with TestClient(TestServer(setup.gateway.app())) as client:
        yield client


async def the_span(setup: Setup, spans: InMemorySpanExporter) -> ReadableSpan:
    await setup.finished()
    (span,) = spans.get_finished_spans()
    return span


@pytest.mark.parametrize("stream", [True, False], ids=["a stream", "a whole answer"])
async def test_a_span_tells_what_became_of_a_request(
    client: Client, setup: Setup, spans: InMemorySpanExporter, stream: bool
) -> None:
    await (await client.post(CHAT, json=BODY | {"stream": stream}, headers=CALLER)).read()
    span = await the_span(setup, spans)
    assert (span.name, span.kind, span.status.status_code) == (
        f"POST {CHAT}",
        SpanKind.SERVER,
        StatusCode.UNSET,
    )
    assert dict(span.attributes or {}) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "gen_ai.request.model": "reviews",
        "gen_ai.response.model": VERSION,
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 2,
        "finetune.request_id": "mine",
    }


async def test_the_callers_span_is_above_it_and_the_engines_below(
    client: Client, setup: Setup, engine: Engine, spans: InMemorySpanExporter
) -> None:
    await client.post(CHAT, json=BODY, headers=CALLER)
    span = await the_span(setup, spans)
    assert span.parent is not None
    assert (f"{span.parent.trace_id:x}", f"{span.parent.span_id:x}") == (TRACE.lstrip("0"), PARENT)
    seen = engine.headers[0]
    assert seen["traceparent"] == f"00-{TRACE}-{span.context.span_id:016x}-01"
    assert seen["tracestate"] == "a=b"


async def test_a_request_without_a_trace_begins_one(
    client: Client, setup: Setup, engine: Engine, spans: InMemorySpanExporter
) -> None:
    await client.post(CHAT, json=BODY)
    span = await the_span(setup, spans)
    assert span.parent is None
    assert engine.headers[0]["traceparent"].split("-")[1] == f"{span.context.trace_id:032x}"


async def test_another_replicas_span_is_below_ours(
    client: Client, setup: Setup, spans: InMemorySpanExporter
) -> None:
    sent: list[Any] = []

    async def answer(request: web.Request) -> web.Response:
        sent.append(request.headers.getall("traceparent"))
        return web.json_response({})

    peer = web.Application()
    peer.router.add_post(CHAT, answer)
    setup.book.engine_up = False
    async with TestServer(peer) as server, ClientSession() as calls:
        setup.gateway.peers = Peers(calls, str(server.make_url("/")))
        await client.post(CHAT, json=BODY, headers={"Traceparent": CALLER["traceparent"]})
    span = await the_span(setup, spans)
    assert sent == [[f"00-{TRACE}-{span.context.span_id:016x}-01"]]


@pytest.mark.parametrize(
    ("path", "body", "name", "status", "code"),
    [
        pytest.param(CHAT, {"model": "nobody"}, f"POST {CHAT}", StatusCode.UNSET, 404, id="an unknown model"),
        pytest.param("/any/path", {}, "POST", StatusCode.UNSET, 404, id="a path that is not served"),
        pytest.param(CHAT, BODY, f"POST {CHAT}", StatusCode.ERROR, 503, id="an engine that is down"),
    ],
)
async def test_a_refusal_has_a_span(
    client: Client,
    setup: Setup,
    spans: InMemorySpanExporter,
    path: str,
    body: dict[str, Any],
    name: str,
    status: StatusCode,
    code: int,
) -> None:
    setup.book.engine_up = False
    await client.post(path, json=body)
    span = await the_span(setup, spans)
    assert (span.name, span.status.status_code) == (name, status)
    assert (span.attributes or {})["http.response.status_code"] == code


async def test_health_has_none(client: Client, spans: InMemorySpanExporter) -> None:
    await client.get("/health")
    assert spans.get_finished_spans() == ()


async def test_a_collector_gets_spans_over_http(setup: Setup) -> None:
    got: list[ExportTraceServiceRequest] = []

    async def collect(request: web.Request) -> web.Response:
        got.append(ExportTraceServiceRequest.FromString(await request.read()))
        return web.Response(body=b"", content_type="application/x-protobuf")

    collector = web.Application()
    collector.router.add_post("/v1/traces", collect)
    async with TestServer(collector) as server:
        provider = exporting(str(server.make_url("/v1/traces")))
        setup.gateway.span = ServerSpans(provider).of
        async with TestClient(TestServer(setup.gateway.app())) as client:
            await client.post(CHAT, json=BODY)
        await asyncio.to_thread(send_rest, provider)
    (resource,) = got[0].resource_spans
    told = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
    assert told["service.name"] == "finetune-gateway"
    assert [span.name for scope in resource.scope_spans for span in scope.spans] == [f"POST {CHAT}"]


async def test_a_collector_that_is_away_costs_no_request_and_no_end(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune_serving.gateway.spans._EXPORT_SECONDS", 0.2)
    provider = exporting("http://127.0.0.1:9/v1/traces")
    setup.gateway.span = ServerSpans(provider).of
    async with TestClient(TestServer(setup.gateway.app())) as client:
        assert (await client.post(CHAT, json=BODY)).status == 200
    begun = time.monotonic()
    await asyncio.to_thread(send_rest, provider)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("variables", "endpoint"),
    [
        pytest.param({}, None, id="nothing is set"),
        pytest.param({"ENDPOINT": "http://c:4318/"}, "http://c:4318/v1/traces", id="one for all signals"),
        pytest.param(
            {"ENDPOINT": "http://c:4318", "TRACES_ENDPOINT": "http://t:1/x"},
            "http://t:1/x",
            id="one for traces",
        ),
    ],
)
def test_gateway_and_engine_send_to_the_same_collector(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], endpoint: str | None
) -> None:
    for name in ("ENDPOINT", "TRACES_ENDPOINT"):
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{name}", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", value)
    assert traces_endpoint() == endpoint
    line = engine_arguments(options(), "[]")
    flags = [] if endpoint is None else ["--otlp-traces-endpoint", endpoint]
    assert [part for part in line if part in ("--otlp-traces-endpoint", endpoint)] == flags
