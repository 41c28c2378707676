"""Refusals, and the error shapes of OpenAI's and Anthropic's APIs that make their clients raise as usual."""

import json
from typing import Literal

from aiohttp import web

ANTHROPIC_PATH = "/v1/messages"
RETRY_SECONDS = 2
Kind = Literal["invalid_request_error", "server_error", "requests", "tokens"]
_ANTHROPIC_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class Refusal(Exception):  # noqa: N818 - the gateway's answer, not a fault of it
    """A request that the gateway answers itself; `retry_after` in seconds."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        kind: Kind = "invalid_request_error",
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.kind = kind
        self.retry_after = retry_after

    def answer(self, path: str) -> web.Response:
        """The response to a request of `path`."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        body = self._anthropic() if path == ANTHROPIC_PATH else self._openai()
        return web.Response(
            text=json.dumps(body), status=self.status, headers=headers, content_type="application/json"
        )

    def _openai(self) -> dict[str, object]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def _anthropic(self) -> dict[str, object]:
        default = "api_error" if self.status >= 500 else "invalid_request_error"
        kind = _ANTHROPIC_KINDS.get(self.status, default)
        return {"type": "error", "error": {"type": kind, "message": self.message}}


def bad_request(message: str, param: str | None = None) -> Refusal:
    """400: the request itself is wrong; `param` names the field."""
    return Refusal(400, message, param=param)


def wrong_key() -> Refusal:
    """401: no accepted API key; the key that was sent is not repeated."""
    text = "Incorrect API key provided. Send an accepted key as 'Authorization: Bearer KEY'."
    return Refusal(401, text, code="invalid_api_key")


def not_allowed(key: str, model: str) -> Refusal:
    """403, as OpenAI answers for a project without access: the key is good, but not for this model."""
    text = f"The API key `{key}` does not have access to the model `{model}`."
    return Refusal(403, text, code="model_not_found", param="model")


def unknown_model(model: str) -> Refusal:
    """404: neither the base nor an alias has this name."""
    text = f"The model `{model}` does not exist here; GET /v1/models lists the models that do."
    return Refusal(404, text, code="model_not_found", param="model")


def refused_candidate(model: str, reason: str) -> Refusal:
    """409: a candidate that this server cannot have, whenever it is asked again."""
    return Refusal(
        409, f"The candidate `{model}` is refused: {reason}", code="candidate_refused", param="model"
    )


def unknown_version(model: str, version: str, listed: list[str]) -> Refusal:
    """404: the version that a header asks for is none of the model's."""
    text = f"The model `{model}` has no version `{version}`; ask for one of {', '.join(listed)}, or for none."
    return Refusal(404, text, code="version_not_found")


def unknown_path(method: str, path: str) -> Refusal:
    """404: this path (or method) is not part of the public API."""
    return Refusal(404, f"Invalid URL ({method} {path}).", code="unknown_url")


def too_slow(seconds: float) -> Refusal:
    """408: the body did not arrive in time."""
    return Refusal(408, f"The request body did not arrive within {seconds:.0f} seconds; send it again.")


def too_large(limit: int) -> Refusal:
    """413: the body exceeds the limit (bytes)."""
    return Refusal(413, f"The request body is larger than {limit} bytes; send a shorter one.")


def too_many(message: str, kind: Kind = "requests", retry_after: int = RETRY_SECONDS) -> Refusal:
    """429: a limit on requests or tokens is reached for the moment."""
    return Refusal(429, message, code="rate_limit_exceeded", kind=kind, retry_after=retry_after)


def unavailable(message: str = "The engine cannot answer right now; try again shortly.") -> Refusal:
    """503: nothing is wrong with the request, but this pod cannot answer it now."""
    return Refusal(503, message, code="engine_unavailable", kind="server_error", retry_after=RETRY_SECONDS)


def broken() -> Refusal:
    """500: a defect of the gateway; its log has the traceback."""
    text = "The gateway failed on this request; the log of the pod's gateway container says why."
    return Refusal(500, text, kind="server_error")
