"""Probe of the engine: standard library only, because the kubelet runs it every few seconds."""

import http.client
import socket
import time
from pathlib import Path

_TIMEOUT_SECONDS = 5.0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("engine", timeout=_TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket file instead of a host and port."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT_SECONDS)
        self.sock.connect(self._path)


def check(path: str, start_seconds: float = 0.0) -> int:
    """Exit code: 0 when the engine behind the unix socket `path` answers /health with 200, else 1.

    An engine that has been loading its model for less than `start_seconds` is in order too.
    """
    return 0 if _answers(path) or _starting(path, start_seconds) else 1


def starting_file(path: str) -> Path:
    """A file that is there from the start of the engine's process until it can answer."""
    return Path(f"{path}.starting")


def _answers(path: str) -> bool:
    connection = _UnixConnection(path)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _starting(path: str, seconds: float) -> bool:
    try:
        return time.time() - starting_file(path).stat().st_mtime < seconds
    except OSError:
        return False
