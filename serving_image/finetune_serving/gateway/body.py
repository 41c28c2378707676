"""The bodies of requests: read within limits, parsed only as far as needed, rewritten for one version.

Values are never turned into objects: they are slices of the bytes that came (msgspec.Raw), copied once
into the bytes that go to the engine.
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Raw
from pydantic import JsonValue

from finetune_serving.documents import RequestLimits
from finetune_serving.gateway.errors import ANTHROPIC_PATH, bad_request, too_large, too_slow

# Slow senders hold a socket and memory; 32 MiB in two minutes is 2.2 Mbit/s.
BODY_SECONDS = 120.0
_FALSE = Raw(b"false")
# What `Ask.rendered` sets by what this replica knows.
_SET = ("model", "stream_options", "chat_template_kwargs")
_Fields = dict[str, Raw]
_OTHER: Any = object()  # a value of another kind
_LIST_OF_PROMPTS = re.compile(rb'\[\s*["\[]')

# Fields of vLLM 0.32's request classes that reach beyond the request itself, and why none is passed on.
STRIPPED: Mapping[str, str] = {
    "kv_transfer_params": "names a host from which the engine pulls a KV cache",
    "ec_transfer_params": "names a host from which the engine pulls an encoder cache",
    "vllm_xargs": "becomes SamplingParams.extra_args, through which both of the above pass too",
    "priority": "moves a request before those of other callers",
    "request_id": "may name another caller's request; x-request-id is ours to choose",
}


@dataclass(frozen=True)
class Endpoint:
    """One route that generates.

    `chat`: its prompts are rendered by the chat template. `asks_usage`: its streams report tokens only when
    `stream_options` ask for it. `refused`: fields that need a memory of earlier requests. `fixed`: fields
    whose value is ours.
    """

    path: str
    chat: bool = True
    asks_usage: bool = False
    refused: tuple[str, ...] = ()
    fixed: Mapping[str, Raw] = field(default_factory=dict)


ENDPOINTS: Mapping[str, Endpoint] = {
    endpoint.path: endpoint
    for endpoint in (
        Endpoint("/v1/chat/completions", asks_usage=True),
        Endpoint("/v1/completions", chat=False, asks_usage=True),
        Endpoint("/v1/responses", refused=("previous_response_id", "background"), fixed={"store": _FALSE}),
        Endpoint(ANTHROPIC_PATH),
    )
}


@dataclass(frozen=True)
class Ask:
    """A parsed request. `adds_usage`: we ask for a last event with tokens, which the client did not."""

    endpoint: Endpoint
    model: str
    user: str
    fields: Mapping[str, Raw]
    streams: bool
    adds_usage: bool

    def rendered(self, version: str, trained: Mapping[str, JsonValue]) -> bytes:
        """The body for the engine; `trained` is what the version's prompts pass to the chat template."""
        fields = {**self.fields, **self.endpoint.fixed, "model": _raw(version)}
        if self.adds_usage:
            fields["stream_options"] = Raw(b'{"include_usage":true}')
        if trained and self.endpoint.chat:
            fields["chat_template_kwargs"] = _raw(self._template_kwargs(trained))
        return msgspec.json.encode(fields)

    def own(self) -> dict[str, Raw | None]:
        """What the client sent where `rendered` sets something; copies, so as not to keep its whole body."""
        sent = {name: self.fields.get(name) for name in _SET}
        return {name: None if value is None else value.copy() for name, value in sent.items()}

    def _template_kwargs(self, trained: Mapping[str, JsonValue]) -> dict[str, Any]:
        """As in training, save for what the client asks for itself."""
        return {**trained, **(_as(self.fields.get("chat_template_kwargs"), _Fields | None, None) or {})}


_fields = msgspec.json.Decoder(_Fields)


def unrendered(content: bytes, own: Mapping[str, Raw | None]) -> bytes:
    """A rendered body with the client's own values, for a replica that sets its own."""
    fields = {**_fields.decode(content), **own}
    return msgspec.json.encode({name: value for name, value in fields.items() if value is not None})


async def read(request: web.Request, limit: int, taken: Callable[[int], None]) -> bytes:
    """The whole body; Refusal when it exceeds `limit` bytes, is too slow or not encoded as it says.

    `taken` is told of each part's bytes and may refuse.
    """
    if (request.content_length or 0) > limit:
        raise too_large(limit)
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.content.iter_any():
                size += len(part)
                if size > limit:
                    raise too_large(limit)
                taken(len(part))
                parts.append(part)
    except TimeoutError:
        raise too_slow(BODY_SECONDS) from None
    except web.RequestPayloadError as error:
        raise bad_request(f"The request body cannot be read ({error}); check Content-Encoding.") from error
    return parts[0] if len(parts) == 1 else b"".join(parts)


def parse(endpoint: Endpoint, content: bytes, limits: RequestLimits) -> Ask:
    """The request; Refusal for one that no version may see."""
    try:
        fields = _fields.decode(content)
    except (ValueError, RecursionError) as error:
        raise bad_request(f"The request body is not a JSON object ({error}); correct it.") from error
    model = _text(fields.get("model"))
    if not model:
        raise bad_request("Set `model` to a name from GET /v1/models.", param="model")
    _check(endpoint, fields, limits)
    kept = {name: value for name, value in fields.items() if name not in STRIPPED}
    streams = bool(_as(fields.get("stream"), bool | int | str | None, False))
    adds_usage = streams and endpoint.asks_usage and _lacks_usage(fields)
    return Ask(endpoint, model, _text(fields.get("user")), kept, streams, adds_usage)


def _check(endpoint: Endpoint, fields: Mapping[str, Raw], limits: RequestLimits) -> None:
    for name in endpoint.refused:
        if name in fields and _as(fields[name], bool | None, True):
            text = f"`{name}` is not available: this server keeps nothing between requests. Leave it out."
            raise bad_request(text, param=name)
    kwargs = fields.get("chat_template_kwargs")
    if endpoint.chat and kwargs is not None and _as(kwargs, _Fields | None, _OTHER) is _OTHER:
        text = "`chat_template_kwargs` must be a JSON object; correct it or leave it out."
        raise bad_request(text, param="chat_template_kwargs")
    if _number(fields.get("n")) > limits.max_n:
        raise bad_request(f"`n` may be at most {limits.max_n} on this server; send less.", param="n")
    if _has_more(fields.get("prompt"), limits.max_prompts):
        text = f"`prompt` may hold at most {limits.max_prompts} prompts on this server; send less at a time."
        raise bad_request(text, param="prompt")


def _lacks_usage(fields: Mapping[str, Raw]) -> bool:
    """Whether a stream's tokens have to be asked for; options that are no object are left to the engine."""
    if "stream_options" not in fields:
        return True
    options = _as(fields["stream_options"], dict[str, Any] | None, _OTHER)
    return options is None or (options is not _OTHER and options.get("include_usage") is not True)


def _text(raw: Raw | None) -> str:
    """A string, or "" for anything else."""
    return str(_as(raw, str, ""))


def _number(raw: Raw | None) -> float:
    """A number, also one that is written as text, as vLLM's pydantic reads both; 0 for anything else."""
    try:
        return float(_as(raw, int | float | str | None, None) or 0)
    except (ValueError, OverflowError):
        return 0


def _as(raw: Raw | None, kind: Any, default: Any) -> Any:
    """The value if it is there and of a kind, else `default`."""
    if raw is None:
        return default
    try:
        return msgspec.json.decode(raw, type=kind)
    except (ValueError, RecursionError):
        return default


def _has_more(prompt: Raw | None, count: int) -> bool:
    """Whether a list of prompts has more than `count`; one list of token numbers is a single prompt."""
    if prompt is None or not _LIST_OF_PROMPTS.match(memoryview(prompt)):
        return False
    try:
        _at_most(count).decode(prompt)
    except msgspec.ValidationError:
        return True
    return False


@cache
def _at_most(count: int) -> msgspec.json.Decoder[Any]:
    """Decodes lists up to `count`; it stops at the first item too many, however long the list is."""
    items = [(f"item{number}", Raw, msgspec.UNSET) for number in range(count)]
    shape = msgspec.defstruct("Prompts", items, array_like=True, forbid_unknown_fields=True)
    return msgspec.json.Decoder(shape)


def _raw(value: JsonValue | Mapping[str, Any]) -> Raw:
    return Raw(msgspec.json.encode(value))
