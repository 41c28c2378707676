"""The agent's view of the engine behind the unix socket: identity, load, remove, probe."""

import json
from typing import Any

import aiohttp

from finetune_serving.agent.effect import Step
from finetune_serving.agent.refusal import EngineLostError, RefusedError
from finetune_serving.documents import Reason

_QUICK = aiohttp.ClientTimeout(total=5)
# A load reads the weights inside the engine's loop; on a slow disk a large adapter takes a while.
_SLOW = aiohttp.ClientTimeout(total=300, sock_connect=5)
_DEAD = "EngineCore encountered an issue"  # vLLM's EngineDeadError
_PROBE = {"max_tokens": 8, "logprobs": 10}
_PROMPT = (
    "You are given a short text. Read it with care, say what it is about, name what was asked for, and "
    "answer in the form that was asked for. Text: the quick brown fox jumps over a lazy dog. Answer:"
)


class EngineClient:
    """Calls the engine; EngineLostError when it does not answer, RefusedError when it says no."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def identity(self) -> str:
        """The id of the running engine process; an empty string while it is down, starting or dead."""
        try:
            async with self._session.get("/health", timeout=_QUICK) as health:
                if health.status != 200:
                    return ""
            async with self._session.get("/internal/engine", timeout=_QUICK) as response:
                return str((await response.json())["engineId"]) if response.status == 200 else ""
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError):
            return ""

    async def loaded(self) -> dict[str, str]:
        """Path of every adapter that the engine knows by name."""
        status, text = await self._call("GET", "/internal/loras")
        if status != 200:
            raise EngineLostError(f"the engine answered {status} to /internal/loras")
        return {name: lora["path"] for name, lora in json.loads(text)["loras"].items()}

    async def load(self, name: str, path: str) -> None:
        """Load an adapter; one that is already there from the same path counts as loaded."""
        body = {"lora_name": name, "lora_path": path}
        status, text = await self._call("POST", "/v1/load_lora_adapter", body)
        if status == 400 and "already been loaded" in text:
            if (await self.loaded()).get(name) == path:
                return
            await self.remove(name)
            status, text = await self._call("POST", "/v1/load_lora_adapter", body)
        if status != 200:
            raise refusal(status, text)

    async def remove(self, name: str) -> bool:
        """Forget the name and free the weights; False while the engine still holds requests of it."""
        status, text = await self._call("POST", "/internal/remove_lora", {"lora_name": name})
        if status not in (200, 409):
            raise EngineLostError(f"the engine answered {status} to a removal: {text[:200]}")
        return status == 200

    async def continuation(self, model: str) -> list[Step]:
        """How `model` continues one fixed prompt, greedily."""
        body = {"model": model, "prompt": _PROMPT, "temperature": 0, "ignore_eos": True, **_PROBE}
        status, text = await self._call("POST", "/v1/completions", body)
        if status == 404:
            raise EngineLostError(f"the engine does not know {model} any more")
        if status != 200:
            raise refusal(status, text)
        found = json.loads(text)["choices"][0]["logprobs"]
        return [Step(token, top) for token, top in zip(found["tokens"], found["top_logprobs"], strict=True)]

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
        try:
            async with self._session.request(method, path, json=body, timeout=_SLOW) as response:
                text = await response.text()
                if response.status >= 500 and _DEAD in text:
                    raise EngineLostError("the engine's worker process is dead")
                return response.status, text
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise EngineLostError(f"the engine did not answer {path}: {error}") from error


def refusal(status: int, text: str) -> RefusedError:
    """Read the engine's answer: vLLM 0.32 reports lasting mistakes as 500 with the cause only in the text."""
    message = _message(text)
    if status == 404 and "detail" in text and "error" not in text:
        return RefusedError("LoadFailed", "The engine was started without runtime LoRA loading.")
    reasons: tuple[tuple[str, Reason], ...] = (
        ("max_lora_rank", "RankTooLarge"),
        ("does not support", "UnsupportedAdapter"),
        ("only supports", "UnsupportedAdapter"),
        ("not supported", "UnsupportedAdapter"),
    )
    reason: Reason = next((reason for mark, reason in reasons if mark in message), "LoadFailed")
    return RefusedError(reason, f"The engine refused the adapter: {message}")


def _message(text: str) -> str:
    try:
        body = json.loads(text)
    except ValueError:
        return text[:500]
    error = body.get("error", body) if isinstance(body, dict) else {}
    message = str(error.get("message", text)) if isinstance(error, dict) else text
    return message.removeprefix("Call to add_lora method failed: ")[:500]
