"""A stand-in of the Hub's HTTP interface with one public, one private and one unusable repository."""

import json
import re
import threading
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "1" * 40
OTHER = "2" * 40
TOKEN = "hf_stand_in"


class HubStandIn:
    """Answers the requests that huggingface_hub makes for one public and one private repository."""

    def __init__(self, public: dict[str, bytes], dataset: dict[str, bytes], host: str = "127.0.0.1") -> None:
        self.repositories = {
            "models/org/base": (public, None),
            "models/org/private": (public, TOKEN),
            "datasets/org/data": (dataset, None),
            "models/org/pickle": ({"config.json": b"{}", "pytorch_model.bin": b"x"}, None),
        }
        self.failing = False
        self.downloads: list[str] = []
        self.tokens: list[str | None] = []
        self.bytes_sent = 0
        self.server = ThreadingHTTPServer((host, 0), self._handler())
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def address(self) -> str:
        return f"http://{self.server.server_address[0]}:{self.server.server_port}"

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def answer(self, method: str, path: str, token: str | None) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for one request."""
        self.tokens.append(token)
        if self.failing:
            return 503, {}, b""
        kind, name, action, revision, rest = _parse(path)
        files, needed = self.repositories.get(f"{kind}/{name}", (None, None))
        if files is None or (needed and token != f"Bearer {needed}"):
            return 401, {"X-Error-Code": "RepoNotFound"}, b'{"error": "Repository not found"}'
        if revision != COMMIT:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b'{"error": "Invalid rev id"}'
        if action == "tree":
            rows = [
                {"type": "file", "path": p, "size": len(c), "oid": f"{len(c):040x}"} for p, c in files.items()
            ]
            return 200, {"Content-Type": "application/json"}, json.dumps(rows).encode()
        if rest not in files:
            return 404, {"X-Error-Code": "EntryNotFound"}, b'{"error": "Entry not found"}'
        if method == "GET":
            self.downloads.append(rest)
        headers = {"ETag": f'"{sha256(files[rest]).hexdigest()}"', "X-Repo-Commit": COMMIT}
        return 200, headers, files[rest]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                path = unquote(urlsplit(self.path).path)
                status, headers, body = hub.answer(self.command, path, self.headers.get("Authorization"))
                asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                if asked and status == 200:
                    status, body = 206, body[int(asked[1]) : int(asked[2]) + 1]
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    hub.bytes_sent += len(body)
                    self.wfile.write(body)

            do_GET = do_HEAD = _serve

            def log_message(self, *_: Any) -> None:
                return

        return Handler


def _parse(path: str) -> tuple[str, str, str, str, str]:
    """(models|datasets, org/name, tree|resolve, revision, path in the repository)"""
    parts = path.strip("/").removeprefix("api/").split("/")
    kind = parts.pop(0) if parts[0] in ("models", "datasets") else "models"
    name, action, revision = "/".join(parts[:2]), parts[2], parts[3]
    return kind, name, action, revision, "/".join(parts[4:])
