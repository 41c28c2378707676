"""versitygw, a real S3 server over a folder, built from its Go module at a pinned version.

And a stand-in for what it never says: the refusals of temporary keys.
"""

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

VERSION = "v1.8.0"
MODULE = "github.com/versity/versitygw/cmd/versitygw"
BINARY = Path.home() / ".cache" / "finetune-operator" / "bin-extra" / f"versitygw-{VERSION}"
ACCESS_KEY, SECRET_KEY, REGION = "reader", "reader-secret", "eu-test-1"
_START_SECONDS = 30


def versitygw() -> Path:
    """The binary, built once per machine; skips the test where that is not possible."""
    if not BINARY.exists():
        if shutil.which("go") is None:
            pytest.skip("needs Go to build versitygw, the S3 server of this test")
        environment = {**os.environ, "GOBIN": str(BINARY.parent / VERSION)}
        subprocess.run(["go", "install", f"{MODULE}@{VERSION}"], check=True, env=environment)
        (BINARY.parent / VERSION / "versitygw").rename(BINARY)
    return BINARY


@contextmanager
def serving(root: Path, host: str = "127.0.0.1") -> Iterator[str]:
    """An S3 server at the address that is yielded; its buckets are the folders of `root`."""
    with socket.create_server((host, 0)) as free:
        port = free.getsockname()[1]
    command = [
        str(versitygw()), "--port", f"{host}:{port}", "--access", ACCESS_KEY, "--secret", SECRET_KEY,
        "--region", REGION, "--quiet", "posix", "--nometa", str(root),
    ]  # fmt: skip
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(host, port)
        yield f"http://{host}:{port}"
    finally:
        server.terminate()
        server.wait()


@contextmanager
def refusing(code: str, status: int, head: int | None = None) -> Iterator[str]:
    """A server that refuses every request as S3 does: with the code in the body, but a HEAD has none.

    `head` is the status of a HEAD where it is another one.
    """
    body = f"<Error><Code>{code}</Code><Message>It is refused.</Message></Error>".encode()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._begin(status if head is None else head)

        def do_GET(self) -> None:
            self._begin(status)
            self.wfile.write(body)

        def _begin(self, answer: int) -> None:
            self.send_response(answer)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def _wait(host: str, port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except ConnectionRefusedError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError("versitygw did not start")
