"""A client for the engine in the same pod: OpenAI's API over a unix socket."""

import asyncio
import os
import time
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx

from finetune_trainer.chat.messages import requested, served_tools
from finetune_trainer.chat.reasoning import with_reasoning
from finetune_trainer.environment import hang_seconds
from finetune_trainer.errors import Hang, StageError, UserError
from finetune_trainer.words import printable

T = TypeVar("T")
# Everything that generation_config.json may set and the engine would take from there.
GREEDY = {
    "temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0,
    "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
}  # fmt: skip
SOCKET = Path("/run/engine/engine.sock")
TIMEOUT = httpx.Timeout(900.0, connect=10.0)  # one answer may wait behind all others on a slow machine
_START_SECONDS = 900.0
_TRIES = 4
_MOST_WAIT = 5.0


class EngineUnavailable(StageError):  # noqa: N818
    """The engine does not answer or answers with an error of its own; another attempt may help."""

    reason = "Unknown"
    exit_code = 1


class Refused(Exception):  # noqa: N818
    """The engine refuses this one request (HTTP 4xx), such as a prompt longer than its context.

    `code` is its word for why, "" where it says none.
    """

    def __init__(self, message: str, status: int = 400, code: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code


# The first tokens of an answer with their log-probabilities.
Reading = list[tuple[str, float]]


@dataclass(frozen=True)
class Prompt:
    """What is asked: messages, the functions they offer, and what the chat template gets beside them."""

    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] = ()
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The part of a request to the engine that the chat template renders."""
        return {**self.asked(), "chat_template_kwargs": dict(self.template_kwargs)}

    def to_chat(self) -> dict[str, Any]:
        """The same for a chat completion whose answer is text, whatever functions the template is told of."""
        return {**self.to_json(), **({"tool_choice": "none"} if self.tools else {})}

    def asked(self) -> dict[str, Any]:
        """The same for any OpenAI-compatible API, which may know no template."""
        tools = {"tools": served_tools(self.tools)} if self.tools else {}
        return {"messages": requested(self.messages), **tools}


@dataclass(frozen=True)
class Answer:
    """One completion; `finish` is "stop" when the model ended it, "length" when it was cut.

    `seconds` count from the request to its end, with what it waited in the engine and before further tries.
    """

    text: str
    finish: str
    tokens: int
    seconds: float | None = None


def on_socket(path: Path) -> httpx.AsyncClient:
    """What talks to the engine behind a unix socket."""
    transport = httpx.AsyncHTTPTransport(uds=str(path))
    return httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=TIMEOUT)


def socket_path() -> Path:
    """Where the engine listens (`FT_ENGINE_SOCKET` replaces the path of docs/contracts.md)."""
    return Path(os.environ.get("FT_ENGINE_SOCKET", SOCKET))


class Engine:
    """The engine that scores; an async context manager. Retries what may pass, never what cannot.

    Hang when it was ready and then gives no answer at all for FT_HANG_SECONDS. `places` is how many
    questions it should get at once.
    """

    places = 32  # enough to fill the engine's batches; it queues what it cannot run

    def __init__(
        self, http: httpx.AsyncClient, start_seconds: float = _START_SECONDS, first_wait: float = 0.5
    ) -> None:
        self._http, self._start_seconds, self._first_wait = http, start_seconds, first_wait
        self._limit = hang_seconds(os.environ)
        self._silence = asyncio.timeout(None)

    async def __aenter__(self) -> "Engine":
        await self._silence.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()
        try:
            await self._silence.__aexit__(kind, error, trace)
        except TimeoutError as silent:
            text = f"The engine answered nothing for {self._limit} s"
            raise Hang(f"{text}; its container's log says what it did last.") from silent

    async def wait_ready(self) -> None:
        """Return once /health answers 200; EngineUnavailable when it does not in time."""
        try:
            async with asyncio.timeout(self._start_seconds):
                while not await self._healthy():  # noqa: ASYNC110 - another container: no event to wait for
                    await asyncio.sleep(self._first_wait)
        except TimeoutError as error:
            raise EngineUnavailable(
                f"The engine was not ready within {self._start_seconds:.0f} s; its container's log says why."
            ) from error
        self._heard()

    async def base_name(self) -> str:
        """The served model's name (adapters name it as their parent)."""
        answer = await self._send("GET", "/v1/models", None)
        return str(next(item["id"] for item in answer["data"] if not item.get("parent")))

    async def load_adapter(self, name: str, folder: Path) -> str:
        """Load a LoRA adapter that the engine sees under the same path; UserError when it refuses it.

        Returns the name under which it is asked.
        """
        try:
            await self._send("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
        except Refused as error:
            if "already been loaded" not in str(error):
                raise UserError(f"The engine refuses the adapter: {error}") from error
        return name

    async def chat(self, model: str, prompt: Prompt, max_tokens: int) -> Answer:
        """The model's greedy answer; Refused when the engine does not accept the prompt."""
        body = {"model": model, **prompt.to_chat(), "max_tokens": max_tokens, **GREEDY}
        began = time.monotonic()
        answer = await self._send("POST", "/v1/chat/completions", body)
        seconds = round(time.monotonic() - began, 3)
        first, usage = answer["choices"][0], answer.get("usage") or {}
        message = first["message"]
        text = with_reasoning(message.get("reasoning"), message.get("content") or "")
        tokens = int(usage.get("completion_tokens", 0))
        return Answer(text, str(first.get("finish_reason")), tokens, seconds)

    async def reading(self, model: str, prompt: Prompt) -> Reading:
        """How the greedy answer begins, a fingerprint of the weights that answer; Refused as in `chat`."""
        body = {"model": model, **prompt.to_chat(), "max_tokens": 4, "logprobs": True, **GREEDY}
        answer = await self._send("POST", "/v1/chat/completions", body)
        steps = answer["choices"][0]["logprobs"]["content"]
        return [(str(step["token"]), float(step["logprob"])) for step in steps]

    async def prompt_ids(self, model: str, prompt: Prompt) -> list[int]:
        """The tokens that the engine makes of a prompt; Refused when it does not accept it."""
        body = {"model": model, **prompt.to_json(), "add_generation_prompt": True}
        return [int(token) for token in (await self._send("POST", "/tokenize", body))["tokens"]]

    async def tokens(self, model: str, text: str) -> list[int]:
        """The tokens of a text that goes on after a prompt."""
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        return [int(token) for token in (await self._send("POST", "/tokenize", body))["tokens"]]

    async def log_probability(self, model: str, prompt: Sequence[int], token: int) -> float:
        """The log-probability that a token follows; Refused when prompt and token are too long."""
        only = {"max_tokens": 1, "logprobs": 0, "allowed_token_ids": [token], **GREEDY}
        answer = await self._send("POST", "/v1/completions", {"model": model, "prompt": list(prompt), **only})
        return float(answer["choices"][0]["logprobs"]["token_logprobs"][0])

    async def text(self, model: str, ids: Sequence[int]) -> str:
        """The text of tokens."""
        answer = await self._send("POST", "/detokenize", {"model": model, "tokens": list(ids)})
        return str(answer["prompt"])

    def _heard(self) -> None:
        if self._silence.expired():
            return  # the stage is being cancelled
        self._silence.reschedule(asyncio.get_running_loop().time() + self._limit)

    async def _healthy(self) -> bool:
        try:
            return (await self._http.get("/health", timeout=10.0)).status_code == 200
        except httpx.TransportError:
            return False

    async def _send(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        problem = ""
        for attempt in range(_TRIES):
            if attempt:
                await asyncio.sleep(min(self._first_wait * 2**attempt, _MOST_WAIT))
            try:
                response = await self._http.request(method, path, json=body)
            except httpx.TransportError as error:
                problem = type(error).__name__
                continue
            self._heard()
            if response.status_code < 400:
                return _json(response)
            problem = f"HTTP {response.status_code}: {error_text(response)}"
            if response.status_code < 500 and response.status_code != 429:
                raise Refused(error_text(response), response.status_code, error_code(response))
        text = f"The engine failed {_TRIES} times at {path} ({problem})"
        raise EngineUnavailable(f"{text}; its container's log says why.")


async def all_of(asked: Iterable[Coroutine[None, None, T]]) -> list[T]:
    """The results of all, in their order; when one fails the others are ended and its error is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in asked]
    except BaseExceptionGroup as failures:
        # The stage runner knows reasons, not groups; one engine that is gone fails every row alike.
        raise failures.exceptions[0] from failures
    return [task.result() for task in tasks]


def _json(response: httpx.Response) -> Any:
    """The document, or the text where an answer is none (loading an adapter answers with a sentence)."""
    try:
        return response.json()
    except ValueError:
        return response.text


def error_text(response: httpx.Response) -> str:
    """What an error answer says, cut to a length for messages."""
    try:
        document = response.json()
        return printable(str(document.get("error", document).get("message", document)))[:300]
    except (ValueError, AttributeError):
        return response.text[:300]


def error_code(response: httpx.Response) -> str:
    """The word by which an error answer tells programs why, "" where it has none."""
    try:
        return str(response.json()["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return ""
