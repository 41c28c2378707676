"""JSON over HTTP with a time limit for everything that is sent to one address."""

import json
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx

from finetune_trainer.words import printable

_REQUEST_SECONDS = 20.0
_ALL_SECONDS = 180.0
_MOST_BYTES = 1 << 20  # of an answer
_SHOWN = 200  # characters of what a server says


class ExportFailed(Exception):  # noqa: N818 - of one address; the run goes on
    """Something could not be sent; the text says why."""


class Connection:
    """One address and its bearer token; a context manager. ExportFailed after three minutes in all."""

    def __init__(self, address: str, token: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        headers = {"Accept-Encoding": "identity"}  # what is read counts, not what it unpacks to
        headers |= {"Authorization": f"Bearer {token}"} if token else {}
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
        self._check_time()
        try:
            with self._http.stream(method, self._address + path, **content) as response:
                body = self._read(response)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            host = urlsplit(self._address).netloc
            raise ExportFailed(f"{host} cannot be reached ({type(error).__name__})") from error
        if response.is_success:
            return _object(body)
        said = printable(" ".join(body.decode(errors="replace").split())[:_SHOWN])
        kind = _NotThere if response.status_code == 404 else ExportFailed
        raise kind(f"{path} was answered with HTTP {response.status_code}: {said}")

    def _read(self, response: httpx.Response) -> bytes:
        """The body; ExportFailed for one that is too large, or does not end within the time for all."""
        body = bytearray()
        for piece in response.iter_bytes():
            body += piece
            if len(body) > _MOST_BYTES:
                raise ExportFailed(f"its answer is larger than {_MOST_BYTES >> 20} MiB")
            self._check_time()
        return bytes(body)

    def _check_time(self) -> None:
        if self._clock() > self._end:
            raise ExportFailed(f"it took longer than {_ALL_SECONDS:.0f} s")


class _NotThere(ExportFailed):
    """The server has no such thing."""


def _object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise ExportFailed("the answer is not JSON, so the address is that of something else") from error
    if not isinstance(document, dict):
        raise ExportFailed("the answer is no JSON object, so the address is that of something else")
    return document
