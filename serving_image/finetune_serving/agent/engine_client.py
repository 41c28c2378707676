"""The agent's view of the engine behind the unix socket: identity, load, remove, probe."""

import errno
import json
import math
import time
from dataclasses import dataclass
from typing import Any

import aiohttp

from finetune_serving.agent.effect import Step
from finetune_serving.agent.refusal import RefusedError
from finetune_serving.documents import Reason

_HEALTH_SECONDS = 5.0
# A load reads the weights inside the engine's loop; on a slow disk a large adapter takes a while.
_LOAD_SECONDS = 120.0
_PROBE_SECONDS = 60.0
_LISTING_SECONDS = 10.0
_REMOVAL_SECONDS = 75.0  # the engine itself gives up a little earlier
_DEAD = "EngineCore encountered an issue"  # vLLM's EngineDeadError
_PROBE_TOKENS = 8
_LOGPROBS = (10, 1, 0)  # the administrator may allow fewer (--max-logprobs)
_PROMPT = (
    "You are given a short text. Read it with care, say what it is about, name what was asked for, and "
    "answer in the form that was asked for. Text: the quick brown fox jumps over a lazy dog. Answer:"
)


# What asyncio and uvloop make of a unix socket whose backlog is full: it refuses at once instead of waiting.
_BACKLOG_FULL = frozenset({errno.ENOTCONN, errno.EAGAIN})


class EngineLostError(Exception):
    """Nothing listens on the socket, the connection broke, or the engine says that it is dead."""


class EngineSlowError(Exception):
    """The engine did not answer in time; whether it is busy or hangs is not known."""


class EngineAnswerError(Exception):
    """The engine answered a question of ours with an error that says nothing about a version."""


@dataclass(frozen=True)
class Identity:
    """One engine process, and how many adapters it holds at most."""

    engine_id: str
    slots: int


class EngineClient:
    """Calls the engine. Every method may raise EngineLostError and EngineSlowError."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._logprobs = list(_LOGPROBS)

    async def identity(self) -> Identity:
        """Which engine process answers; one that is not healthy counts as lost."""
        status, _ = await self._call("GET", "/health", _HEALTH_SECONDS)
        if status != 200:
            raise EngineLostError(f"the engine answered {status} to /health")
        status, text = await self._call("GET", "/internal/engine", _HEALTH_SECONDS)
        if status != 200:
            raise EngineLostError(f"the engine answered {status} to /internal/engine")
        return Identity(str(_field(text, "engineId")), int(_field(text, "slots")))

    async def exit(self) -> None:
        """Ask a hung engine to end, so that it is started again."""
        await self._call("POST", "/internal/exit", _HEALTH_SECONDS)

    async def loaded(self) -> dict[str, str]:
        """Path of every adapter that the engine knows by name; EngineAnswerError when it cannot tell."""
        status, text = await self._call("GET", "/internal/loras", _LISTING_SECONDS)
        if status != 200:
            raise EngineAnswerError(f"the engine answered {status} to /internal/loras: {text[:200]}")
        return {name: lora["path"] for name, lora in _field(text, "loras").items()}

    async def load(self, name: str, path: str) -> None:
        """Load an adapter; one that is already there from the same path counts as loaded.

        RefusedError when the engine says no.
        """
        body = {"lora_name": name, "lora_path": path}
        status, text = await self._call("POST", "/v1/load_lora_adapter", _LOAD_SECONDS, body)
        if status == 400 and "already been loaded" in text:
            if (await self.loaded()).get(name) == path:
                return
            await self.remove(name)
            status, text = await self._call("POST", "/v1/load_lora_adapter", _LOAD_SECONDS, body)
        if status != 200:
            raise refusal(status, text)

    async def remove(self, name: str) -> bool:
        """Forget the name and free the weights; False while the engine still holds requests of it.

        EngineAnswerError when it fails to.
        """
        path = "/internal/remove_lora"
        status, text = await self._call("POST", path, _REMOVAL_SECONDS, {"lora_name": name})
        if status not in (200, 409):
            raise EngineAnswerError(f"the engine answered {status} to a removal: {text[:200]}")
        return status == 200

    async def longest(self) -> int | None:
        """How many tokens prompt and answer may have together; None when the engine does not say."""
        status, text = await self._call("GET", "/v1/models", _HEALTH_SECONDS)
        cards = _field(text, "data") if status == 200 else []
        return next((card["max_model_len"] for card in cards if card.get("max_model_len")), None)

    async def generates(self, model: str, seconds: float) -> None:
        """Ask `model` for one token and wait so long for it; whatever it answers, it is not hung."""
        body = {"model": model, "prompt": "a", "max_tokens": 1}
        await self._call("POST", "/v1/completions", seconds, body)

    async def answer_seconds(self, model: str, tokens: int) -> float:
        """How long an answer of `tokens` tokens to a prompt of one word takes.

        EngineAnswerError when there is none.
        """
        body = {"model": model, "prompt": "a", "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        started = time.monotonic()
        status, text = await self._call("POST", "/v1/completions", _PROBE_SECONDS, body)
        if status != 200:
            raise EngineAnswerError(f"the engine answered {status} to {tokens} tokens: {text[:200]}")
        return time.monotonic() - started

    async def continuation(self, model: str, longest: int | None, repeats: int = 1) -> list[Step] | None:
        """How `model` continues one fixed prompt, greedily; None when the engine's numbers cannot be read.

        `repeats` lengthens the prompt, `longest` is the limit of `longest()`. RefusedError, to be tried
        again, when the engine fails to answer for this model.
        """
        body = _probe(model, longest, repeats)
        status, text = await self._with_logprobs(body)
        if status in (404, 500):
            message = f"The engine answered {status} to a request for {model}: {_message(text)}"
            raise RefusedError("LoadFailed", message, retry=True)
        return _steps(text) if status == 200 else None

    async def _with_logprobs(self, body: dict[str, Any]) -> tuple[int, str]:
        while True:
            asked = body | {"logprobs": self._logprobs[0]}
            status, text = await self._call("POST", "/v1/completions", _PROBE_SECONDS, asked)
            if status != 400 or "logprobs" not in text or len(self._logprobs) == 1:
                return status, text
            del self._logprobs[0]

    async def _call(
        self, method: str, path: str, seconds: float, body: dict[str, Any] | None = None
    ) -> tuple[int, str]:
        deadline = aiohttp.ClientTimeout(total=seconds)
        try:
            async with self._session.request(method, path, json=body, timeout=deadline) as response:
                text = await response.text(errors="replace")
        except TimeoutError as error:
            raise EngineSlowError(f"the engine did not answer {path} within {seconds:.0f} s") from error
        except (aiohttp.ClientError, OSError) as error:
            if getattr(error, "errno", None) in _BACKLOG_FULL:
                raise EngineSlowError("the engine does not accept connections fast enough") from error
            raise EngineLostError(f"the engine did not answer {path}: {error}") from error
        if response.status >= 500 and _DEAD in text:
            raise EngineLostError("the engine's worker process is dead")
        return response.status, text


def _probe(model: str, longest: int | None, repeats: int) -> dict[str, Any]:
    tokens = min(_PROBE_TOKENS, max(1, (longest or 2 * _PROBE_TOKENS) // 2))
    cut = {} if longest is None else {"truncate_prompt_tokens": longest - tokens}
    prompt = " ".join([_PROMPT] * repeats)
    return {
        "model": model,
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
    } | cut


def _field(text: str, name: str) -> Any:
    """A field of an answer; EngineAnswerError when it is not JSON or lacks it."""
    try:
        return json.loads(text)[name]
    except (ValueError, KeyError, TypeError) as error:
        raise EngineAnswerError(f"the engine's answer has no {name}: {text[:200]}") from error


def _steps(text: str) -> list[Step] | None:
    """The steps of an answer; None unless every log-probability is a finite number."""
    try:
        found = _field(text, "choices")[0]["logprobs"]
        steps = [Step(token, top) for token, top in zip(found["tokens"], found["top_logprobs"], strict=True)]
        numbers = [value for step in steps for value in step.likeliest.values()]
    except (EngineAnswerError, AttributeError, LookupError, TypeError, ValueError):
        return None
    return (
        steps if numbers and all(isinstance(n, int | float) and math.isfinite(n) for n in numbers) else None
    )


_LASTING: tuple[tuple[str, Reason], ...] = (
    ("max_lora_rank", "RankTooLarge"),
    ("does not support", "UnsupportedAdapter"),
    ("does not yet support", "UnsupportedAdapter"),
    ("only supports", "UnsupportedAdapter"),
    ("not supported", "UnsupportedAdapter"),
)


def refusal(status: int, text: str) -> RefusedError:
    """Read the engine's answer to a load: vLLM 0.32 tells the cause of a 500 only in its text.

    A text that we know to be about the adapter is final. Anything else may pass (memory, a worker that was
    late) and is tried again.
    """
    message = _message(text)
    if status == 404 and "detail" in text and "error" not in text:
        return RefusedError("LoadFailed", "The engine was started without runtime LoRA loading.")
    reason = next((reason for mark, reason in _LASTING if mark in message), None)
    said = f"The engine refused the adapter: {message}"
    return RefusedError(reason or "LoadFailed", said, retry=reason is None)


def _message(text: str) -> str:
    try:
        body = json.loads(text)
    except ValueError:
        return text[:500]
    error = body.get("error", body) if isinstance(body, dict) else {}
    message = str(error.get("message", text)) if isinstance(error, dict) else text
    return message.removeprefix("Call to add_lora method failed: ")[:500]
