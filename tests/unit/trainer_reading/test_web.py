"""https:// against a real TLS server with an authority of its own."""

import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from finetune_trainer.contracts import DatasetSpec
from finetune_trainer.errors import SourceUnavailableError, UserError
from finetune_trainer.reading.lines import parse_line
from finetune_trainer.reading.records import read_file
from finetune_trainer.sources import located, web
from finetune_trainer.sources.fetch import locate

ROWS = b'{"a": 1}\n' * 50_000
TOKEN = "web-token"


ANSWERS: dict[str, tuple[int, dict[str, str], bytes]] = {
    "rows.jsonl": (200, {}, ROWS),
    "private": (200, {}, b"{}\n"),
    "login.jsonl": (200, {"Content-Type": "text/html"}, b"<!DOCTYPE html><html>Sign in</html>"),
    "moved": (302, {"Location": "/rows.jsonl"}, b""),
    "downgrade": (302, {"Location": "http://127.0.0.1/rows.jsonl"}, b""),
    "huge": (200, {"Content-Length": str(10**12)}, b""),
    "endless": (200, {"Content-Length": ""}, ROWS),
    "cut": (200, {"Content-Length": str(len(ROWS) + 1)}, ROWS),
    "busy": (503, {}, b""),
}


def _certificate(folder: Path) -> Path:
    """A certificate for 127.0.0.1, its own authority, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(1), now + timedelta(1))
    builder = builder.add_extension(names, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "server.pem").write_bytes(pem + private)
    return folder / "server.pem"


class Web:
    """A TLS server; `seen` are the (path, Authorization) of its requests."""

    def __init__(self, certificate: Path) -> None:
        self.seen: list[tuple[str, str | None]] = []
        self.other = ""
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.address = f"https://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        if not self.thread.is_alive():
            return
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def answer(self, path: str, token: str | None) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        first = path.partition("?")[0].strip("/").partition("/")[0]
        if first == "private" and token != f"Bearer {TOKEN}":
            return 401, {}, b""
        moved = {"moved-away": f"{self.other}/rows.jsonl", "loop": path}
        return (
            (302, {"Location": moved[first]}, b"") if first in moved else ANSWERS.get(first, (404, {}, b""))
        )

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                token = self.headers.get("Authorization")
                web.seen.append((self.path, token))
                status, headers, body = web.answer(self.path, token)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    if value:
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                return

        return Handler


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A certificate that clients are told to trust."""
    path = _certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    return path


@pytest.fixture
def site(certificate: Path) -> Iterator[Web]:
    """A running server."""
    web = Web(certificate)
    yield web
    web.stop()


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mounted token."""
    monkeypatch.setenv("FT_CREDENTIALS_ROOT", str(tmp_path / "credentials"))
    (tmp_path / "credentials" / "dataset").mkdir(parents=True)
    (tmp_path / "credentials" / "dataset" / "token").write_text(TOKEN + "\n")


def _fetch(source: str, folder: Path) -> located.DataFile:
    (file,) = locate(DatasetSpec(source=source), folder / "scratch", "train").files
    return file


@pytest.mark.parametrize("path", ["rows.jsonl", "rows.jsonl?signature=x", "moved/train.jsonl"])
def test_a_file_is_copied_over_redirects(path: str, site: Web, tmp_path: Path) -> None:
    file = _fetch(f"{site.address}/{path}", tmp_path)
    assert (file.path.read_bytes(), file.size) == (ROWS, len(ROWS))
    assert file.name.endswith(".jsonl")


def test_a_private_file_needs_the_mounted_token(site: Web, token: None, tmp_path: Path) -> None:
    assert _fetch(f"{site.address}/private/a.jsonl", tmp_path).path.read_bytes() == b"{}\n"


def test_the_token_goes_to_the_named_host_only(
    site: Web, certificate: Path, token: None, tmp_path: Path
) -> None:
    other = Web(certificate)
    site.other = other.address
    _fetch(f"{site.address}/moved-away/a.jsonl", tmp_path)
    other.stop()
    assert site.seen == [("/moved-away/a.jsonl", f"Bearer {TOKEN}")]
    assert other.seen == [("/rows.jsonl", None)]


WRONG: list[tuple[str, str, str]] = [
    ("an absent file", "nothing/a.jsonl", "does not exist (HTTP 404); check the address"),
    ("a refused file", "private/a.jsonl", "refuses access (HTTP 401); put a valid `token`"),
    ("a redirect loop", "loop/a.jsonl", "redirects more than 5 times (a loop?)"),
    ("a redirect to plain HTTP", "downgrade/a.jsonl", "redirects to http://127.0.0.1, which is not https"),
    ("a file of a terabyte", "huge/a.jsonl", "larger than 16 GiB, the limit of a data set"),
    ("a name that is no data", "rows.zip", "rows.zip is not read as data; name the file by what it holds"),
]


@pytest.mark.parametrize(("path", "text"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_what_is_wrong_with_an_address_is_said(path: str, text: str, site: Web, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        _fetch(f"{site.address}/{path}?signature=hidden", tmp_path)
    assert text in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_a_file_of_untold_length_is_stopped_at_the_limit(
    site: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(located, "DATA_SET_BYTES", 100_000)
    with pytest.raises(UserError, match="the limit of a data set"):
        _fetch(f"{site.address}/endless/a.jsonl", tmp_path)


@pytest.mark.parametrize(
    ("path", "text"),
    [("busy/a.jsonl", "failed with HTTP 503"), ("cut/a.jsonl", "cannot be reached (RemoteProtocolError")],
)
def test_what_may_pass_is_tried_again(path: str, text: str, site: Web, tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailableError) as caught:
        _fetch(f"{site.address}/{path}", tmp_path)
    assert text in str(caught.value)


def test_a_server_that_is_away_is_tried_again(site: Web, tmp_path: Path) -> None:
    site.stop()
    with pytest.raises(SourceUnavailableError, match=r"cannot be reached \(ConnectError"):
        _fetch(f"{site.address}/rows.jsonl", tmp_path)


def test_a_certificate_of_a_stranger_is_refused(
    site: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(UserError, match="the server's certificate is not trusted"):
        _fetch(f"{site.address}/rows.jsonl", tmp_path)


def test_a_login_page_is_recognised(site: Web, tmp_path: Path) -> None:
    file = _fetch(f"{site.address}/login.jsonl", tmp_path)
    with pytest.raises(UserError, match=r"login\.jsonl is an HTML page \(a login or error page"):
        list(map(parse_line, read_file(file.path, file.name)))


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("https://user:secret@host/a.jsonl", "The address at host holds a password"),
        ("https:///a.jsonl", "is not understood"),
        ("https://host:port/a.jsonl", "is no address"),
        ("http://host/a.jsonl", "is not understood; write https://host/path/file.jsonl"),
    ],
)
def test_an_address_that_is_never_asked(source: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        web.fetch_url(source, tmp_path)
    assert text in str(caught.value)
    assert "secret" not in str(caught.value)
