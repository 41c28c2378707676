"""JSON over HTTP with a time limit for everything that is sent to one address."""

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx

_REQUEST_SECONDS = 20.0
_ALL_SECONDS = 180.0
_SHOWN = 200  # characters of what a server says


class ExportFailed(Exception):  # noqa: N818 - of one address; the run goes on
    """Something could not be sent; the text says why."""


class Connection:
    """One address and its bearer token; a context manager. ExportFailed after three minutes in all."""

    def __init__(self, address: str, token: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._address, self._clock, self._end = address.rstrip("/"), clock, clock() + _ALL_SECONDS
        self._http = httpx.Client(headers=headers, timeout=_REQUEST_SECONDS)

    def __enter__(self) -> "Connection":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def post(self, path: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """Send a document and return the answer's; ExportFailed when it is refused or is no JSON object."""
        return self._answer("POST", path, json=document)

    def get(self, path: str, query: Mapping[str, str]) -> dict[str, Any] | None:
        """Ask for a document; None where the server has none (404)."""
        try:
            return self._answer("GET", path, params=query)
        except _NotThere:
            return None

    def _answer(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        if self._clock() > self._end:
            raise ExportFailed(f"it took longer than {_ALL_SECONDS:.0f} s")
        try:
            response = self._http.request(method, self._address + path, **content)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            host = urlsplit(self._address).netloc
            raise ExportFailed(f"{host} cannot be reached ({type(error).__name__})") from error
        if response.is_success:
            return _object(response)
        said = " ".join(response.text.split())[:_SHOWN]
        kind = _NotThere if response.status_code == 404 else ExportFailed
        raise kind(f"{path} was answered with HTTP {response.status_code}: {said}")


class _NotThere(ExportFailed):
    """The server has no such thing."""


def _object(response: httpx.Response) -> dict[str, Any]:
    try:
        document = response.json() if response.content else {}
    except ValueError as error:
        raise ExportFailed("the answer is not JSON, so the address is that of something else") from error
    if not isinstance(document, dict):
        raise ExportFailed("the answer is no JSON object, so the address is that of something else")
    return document
