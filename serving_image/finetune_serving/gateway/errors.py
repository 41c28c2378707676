"""Errors in the shape of OpenAI's API, so that its clients raise their usual exceptions."""

from aiohttp import web

RETRY_SECONDS = 2


def error(status: int, message: str, *, code: str | None = None, param: str | None = None) -> web.Response:
    """An error response; 503 also tells the client when to come back."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    headers = {"Retry-After": str(RETRY_SECONDS)} if status == 503 else None
    return web.json_response(body, status=status, headers=headers)


def bad_request(message: str, param: str | None = None) -> web.Response:
    """400: the request itself is wrong; `param` names the field."""
    return error(400, message, param=param)


def wrong_key() -> web.Response:
    """401: no accepted API key; the key that was sent is not repeated."""
    message = "Incorrect API key provided. Send an accepted key as 'Authorization: Bearer KEY'."
    return error(401, message, code="invalid_api_key")


def unknown_model(model: str) -> web.Response:
    """404: neither the base nor an alias has this name."""
    message = f"The model `{model}` does not exist here; GET /v1/models lists the models that do."
    return error(404, message, code="model_not_found", param="model")


def unknown_path(method: str, path: str) -> web.Response:
    """404: this path (or method) is not part of the public API."""
    return error(404, f"Invalid URL ({method} {path}).", code="unknown_url")


def too_large(limit: int) -> web.Response:
    """413: the body exceeds the limit (bytes)."""
    return error(413, f"The request body is larger than {limit} bytes; send a shorter one.")


def unavailable(message: str) -> web.Response:
    """503 with Retry-After: nothing is wrong with the request, the engine cannot answer now."""
    return error(503, message, code="engine_unavailable")
