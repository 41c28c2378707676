"""A stand-in of Google's JSON interface of storage: the requests that its client makes to read one bucket."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@contextmanager
def google_storage(objects: Mapping[str, bytes]) -> Iterator[str]:
    """The address of a server whose bucket `data` holds the objects."""

    class Handler(_Google):
        """One server's requests."""

    Handler.objects = objects
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


class _Google(BaseHTTPRequestHandler):
    objects: Mapping[str, bytes]

    def do_GET(self) -> None:
        split = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(split.query).items()}
        path = unquote(split.path).removeprefix("/storage/v1/b/").removeprefix("/download")
        bucket, _, key = path.removeprefix("/storage/v1/b/").replace("/o/", "/", 1).partition("/")
        if bucket != "data":
            self._answer(404, b'{"error": {"code": 404, "message": "The specified bucket does not exist."}}')
        elif key in ("", "o"):
            self._answer(200, self._listing(query.get("prefix", "")) if key else b'{"name": "data"}')
        elif key not in self.objects:
            self._answer(404, b'{"error": {"code": 404, "message": "No such object"}}')
        elif query.get("alt") == "media":
            self._answer(200, self.objects[key])
        else:
            self._answer(200, json.dumps(self._item(key)).encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _item(self, key: str) -> dict[str, str]:
        times = {"timeCreated": "2026-01-01T00:00:00Z", "updated": "2026-01-01T00:00:00Z"}
        size = str(len(self.objects[key]))
        return {"name": key, "bucket": "data", "size": size, "generation": "1", **times}

    def _listing(self, prefix: str) -> bytes:
        items = [self._item(key) for key in self.objects if key.startswith(prefix)]
        return json.dumps({"kind": "storage#objects", "items": items}).encode()

    def log_message(self, *_: Any) -> None:
        return
