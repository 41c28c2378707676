"""https:// sources: one file, copied to the scratch folder. Never over plain HTTP, also after a redirect."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import httpx

from finetune_trainer.errors import SourceUnavailableError, UserError
from finetune_trainer.reading.kinds import kind_of
from finetune_trainer.sources.credentials import credential
from finetune_trainer.sources.located import Located, folder_for, refuse_size, save

_TIMEOUT = httpx.Timeout(60, connect=10)
_REDIRECTS = 5


def fetch_url(source: str, scratch: Path) -> Located:
    """Download the file; a mounted token is sent as a bearer token, to the named host only.

    Certificates are checked against the system's, or against `SSL_CERT_FILE`.
    """
    url = _parse(source)
    name = PurePosixPath(url.path).name
    kind_of(name)
    shown = str(url.copy_with(query=None))  # a signed address carries its signature in the query
    with _explained(shown), httpx.Client(timeout=_TIMEOUT) as client, _open(client, url, shown) as response:
        _refuse_status(response, shown)
        refuse_size(int(response.headers.get("Content-Length", 0)), shown)
        return Located((save(response.iter_bytes(), folder_for(source, scratch) / name, shown),))


def _parse(source: str) -> httpx.URL:
    try:
        url = httpx.URL(source)
    except httpx.InvalidURL as error:
        raise UserError(f"{source} is no address ({error}); write https://host/path/file.jsonl.") from error
    if not url.host or url.scheme != "https":
        raise UserError(f"{source} is not understood; write https://host/path/file.jsonl.")
    if url.userinfo:
        text = f"The address at {url.host} holds a password; put a token into credentialsSecretRef instead."
        raise UserError(text)
    return url


@contextmanager
def _open(client: httpx.Client, url: httpx.URL, shown: str) -> Iterator[httpx.Response]:
    """The answer after at most five redirects."""
    host = url.netloc
    token = credential("dataset", "token")
    for _ in range(_REDIRECTS + 1):
        headers = {"Accept-Encoding": "identity"}
        if token and url.netloc == host:
            headers["Authorization"] = f"Bearer {token}"
        with client.stream("GET", url, headers=headers) as response:
            if response.next_request is None:
                yield response
                return
            url = response.next_request.url
        if url.scheme != "https":
            raise UserError(
                f"{shown} redirects to {url.scheme}://{url.host}, which is not https; name the file."
            )
    raise UserError(f"{shown} redirects more than {_REDIRECTS} times (a loop?); name the file's own address.")


def _refuse_status(response: httpx.Response, shown: str) -> None:
    status = response.status_code
    if status < 300:
        return
    if status in (401, 403):
        text = f"{shown} refuses access (HTTP {status}); put a valid `token` into credentialsSecretRef."
        raise UserError(text)
    if status >= 500 or status in (408, 429):
        raise SourceUnavailableError(f"{shown} failed with HTTP {status}; it is tried again.")
    raise UserError(f"{shown} does not exist (HTTP {status}); check the address.")


@contextmanager
def _explained(shown: str) -> Iterator[None]:
    try:
        yield
    except httpx.RequestError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            text = f"{shown}: the server's certificate is not trusted; the administrator adds its authority."
            raise UserError(text) from error
        text = (
            f"{shown} cannot be reached ({type(error).__name__}: {error}); check the address and the network."
        )
        raise SourceUnavailableError(text) from error
