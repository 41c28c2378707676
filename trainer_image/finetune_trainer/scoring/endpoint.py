"""A model behind an OpenAI-compatible API on the network: a judge, or a hosted model that is scored."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, TypeVar

import httpx

from finetune_trainer.chat.calls import Call
from finetune_trainer.errors import UserError

TRIES = 3
_MOST_WAIT = 60.0  # seconds, whatever Retry-After asks for
_MOST_BYTES = 1 << 20  # of an answer
_SHOWN = 200  # characters of what a server says
# Words by which servers name a parameter that they do not take, beside its own name.
_OTHER_NAMES = {
    "response_format": ("json_schema", "structured", "guided", "grammar"),
    "max_tokens": ("context length", "completion tokens"),
    "max_completion_tokens": ("context length", "completion tokens"),
}
_LIMITS = ("max_tokens", "max_completion_tokens")
T = TypeVar("T")


class EndpointFailed(Exception):  # noqa: N818 - of one request; the others go on
    """A request got no usable answer, after every try; the text says why."""


class RequestRefused(EndpointFailed):
    """The endpoint answers and does not take this request, such as one longer than its model's context."""


class NoReply(EndpointFailed):
    """The endpoint was away, or too busy, at every try; it may come back."""


class Unusable(Exception):  # noqa: N818 - a property of one answer
    """An answer is not what was asked for; asking again may help."""


@dataclass(frozen=True)
class Completion:
    """What the model wrote, and the tokens that the endpoint counted.

    `calls` are those of functions that it returned apart from the text; one whose arguments are no JSON
    object is the text of the function, as JSON.
    """

    text: str
    finish: str
    input_tokens: int
    output_tokens: int
    calls: tuple[Call | str, ...] = ()


@dataclass(frozen=True)
class Usage:
    """What was asked of an endpoint, failed tries included; tokens as it counted them.

    `uncounted` are the answers whose tokens it did not count.
    """

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    uncounted: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.requests + other.requests,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.uncounted + other.uncounted,
        )


class _Passing(Exception):  # noqa: N818
    """A failure that the next try may not meet, with the seconds that the server asks to wait."""

    def __init__(self, problem: str, wait: float = 0.0) -> None:
        super().__init__(problem)
        self.wait = wait


class _BadRequest(Exception):  # noqa: N818
    """The server does not take the request as it is (HTTP 400 or 422)."""


class Endpoint:
    """One model of one endpoint; an async context manager. `usage` counts what was asked so far.

    `url` is the API's root, as https://host/v1; `seconds` is what one request may take. UserError for a key
    that cannot be sent.
    """

    def __init__(
        self, url: str, model: str, key: str | None, seconds: float = 60.0, first_wait: float = 1.0
    ) -> None:
        if key is not None and not (key.isascii() and key.isprintable()):
            raise UserError(f"The API key for {url} holds characters that no key has; give the key alone.")
        self.url, self.model, self.usage = url.rstrip("/"), model, Usage()
        self._key, self._seconds, self._first_wait = key, seconds, first_wait
        self._untaken: frozenset[str] = frozenset()
        headers = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.AsyncClient(headers=headers, timeout=httpx.Timeout(seconds, pool=None))

    async def __aenter__(self) -> "Endpoint":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def ask(
        self,
        request: Mapping[str, Any],
        parameters: Mapping[str, Any],
        read: Callable[[Completion], T],
        limited: bool = False,
    ) -> T:
        """What `read` makes of the answer; EndpointFailed after three tries, NoReply if nothing came back.

        `read` raises Unusable for an answer that is worth another try. `request` (messages, tools) is sent as
        it is; one of the parameters that the endpoint does not take is left out, and once that has helped, it
        is left out of every later request. With `limited`, `max_tokens` is never left out: where
        the endpoint does not take it, it gets its newer name.
        """
        untaken = self._untaken
        while True:
            body = {"model": self.model, **request, **_taken(parameters, untaken)}
            try:
                found = await self._tried(body, read)
            except _BadRequest as error:
                name = untaken_parameter(str(error), [key for key in body if key not in ("model", *request)])
                if name is None or (limited and name in _LIMITS and not _is_renamed(name, str(error))):
                    raise RequestRefused(f"it refuses the request: {error}") from error
                untaken |= {name}
                continue
            self._untaken |= untaken
            return found

    async def _tried(self, body: dict[str, Any], read: Callable[[Completion], T]) -> T:
        problem, replied = "", False
        for attempt in range(TRIES):
            # An endpoint that repeats itself for the same seed would give the same unusable answer again.
            again = {"seed": body["seed"] + attempt} if "seed" in body else {}
            try:
                async with asyncio.timeout(self._seconds):
                    return read(await self._once({**body, **again}))
            except _Passing as failure:
                problem, wait = str(failure), failure.wait
            except Unusable as failure:
                problem, wait, replied = str(failure), 0.0, True
            except TimeoutError:
                problem, wait = f"it gave no answer within {self._seconds:g} s", 0.0
            except httpx.HTTPError as failure:
                problem, wait = f"it cannot be reached ({type(failure).__name__}: {failure})", 0.0
            if attempt + 1 < TRIES:
                await asyncio.sleep(max(wait, self._first_wait * 2**attempt))
        kind = EndpointFailed if replied else NoReply
        raise kind(f"it failed {TRIES} times, at last: {self._without_key(problem)}")

    async def _once(self, body: dict[str, Any]) -> Completion:
        self.usage += Usage(requests=1)
        # In ASCII: a lone surrogate in a text has no UTF-8.
        sent = json.dumps(body).encode()
        async with self._http.stream("POST", f"{self.url}/chat/completions", content=sent) as response:
            content = await _bounded(response)
        self._refuse_status(response, content)
        answer = completion(content)
        counted = answer.input_tokens + answer.output_tokens > 0
        self.usage += Usage(0, answer.input_tokens, answer.output_tokens, uncounted=not counted)
        return answer

    def _refuse_status(self, response: httpx.Response, content: bytes) -> None:
        status, said = response.status_code, self._without_key(_error_text(content))
        if status < 300:
            return
        if status in (400, 422):
            raise _BadRequest(said or f"HTTP {status}")
        if status in (401, 403):
            raise EndpointFailed(f"it refuses access (HTTP {status}); give it a valid API key")
        if status in (408, 409, 429) or status >= 500:
            raise _Passing(f"HTTP {status} {said}".strip(), retry_after(response.headers.get("Retry-After")))
        raise EndpointFailed(f"HTTP {status} {said}".strip() + "; check its url and the model's name")

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def untaken_parameter(said: str, sent: Sequence[str]) -> str | None:
    """Which parameter a server's refusal is about; the answer's format where it names none, then none."""
    told = said.lower()
    named = (name for name in sent if any(word in told for word in (name, *_OTHER_NAMES.get(name, ()))))
    return next(named, "response_format" if "response_format" in sent else None)


def completion(content: bytes) -> Completion:
    """The body of a chat completion; Unusable for any other document."""
    try:
        document = json.loads(content)
        first, usage = document["choices"][0], document.get("usage") or {}
        message = first["message"]
        return Completion(
            str(message.get("content") or ""),
            str(first.get("finish_reason")),
            _tokens(usage.get("prompt_tokens")),
            _tokens(usage.get("completion_tokens")),
            tuple(_call(made["function"]) for made in message.get("tool_calls") or ()),
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise Unusable("what it answers is no chat completion") from error


def _call(function: Mapping[str, Any]) -> Call | str:
    try:
        arguments = json.loads(function.get("arguments") or "{}")
    except (ValueError, RecursionError):
        arguments = None
    return Call(str(function["name"]), arguments) if isinstance(arguments, dict) else json.dumps(function)


def retry_after(value: str | None) -> float:
    """The seconds of a Retry-After header, a number or a date, at most a minute; 0 for anything else."""
    try:
        seconds = float(value or 0)
    except ValueError:
        seconds = _until(value or "")
    return min(seconds, _MOST_WAIT) if seconds > 0 else 0.0


def _is_renamed(name: str, said: str) -> bool:
    """Whether a limit may be taken by its newer name: not if it, or the prompt, is too long for the model."""
    return name == "max_tokens" and "context length" not in said.lower()


def _until(value: str) -> float:
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    return (moment.astimezone(UTC) - datetime.now(UTC)).total_seconds()


def _taken(parameters: Mapping[str, Any], untaken: frozenset[str]) -> dict[str, Any]:
    taken = dict(parameters)
    if "max_tokens" in untaken and "max_tokens" in taken:
        taken["max_completion_tokens"] = taken["max_tokens"]  # its newer name
    return {name: value for name, value in taken.items() if name not in untaken}


async def _bounded(response: httpx.Response) -> bytes:
    content = bytearray()
    async for piece in response.aiter_bytes():
        content += piece
        if len(content) > _MOST_BYTES:
            raise Unusable(f"its answer is larger than {_MOST_BYTES >> 20} MiB")
    return bytes(content)


def _tokens(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _error_text(content: bytes) -> str:
    """What a server says of an error, in one line."""
    try:
        document = json.loads(content)
        error = document.get("error", document)
        text = str(error.get("message", error) if isinstance(error, dict) else error)
    except (ValueError, AttributeError, RecursionError):
        text = content.decode(errors="replace")
    return " ".join(text.split())[:_SHOWN]
