"""Progress over HTTP: /progress as JSON and /metrics for Prometheus, while a stage runs."""

import json
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, generate_latest

PORT = 8080
_POLL_SECONDS = 0.05  # how late the end of a stage may be noticed; the standard library's 0.5 s delays each
_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """How far a stage is; numbers that are not known yet are None.

    `step_seconds` is what a training step takes, `step_timestamp_seconds` (since 1970) when the last step, or
    answered row, was done. `judge_cost` is what the judge's tokens cost since the stage began, `candidate`
    the digest of the adapter that a ModelServer should hold.
    """

    stage: str
    step: int = 0
    total_steps: int | None = None
    loss: float | None = None
    tokens_per_second: float | None = None
    eta_seconds: float | None = None
    checkpoint_seconds: float | None = None
    checkpoint_step: int | None = None
    step_seconds: float | None = None
    step_timestamp_seconds: float | None = None
    candidate: str | None = None
    judge_cost: float | None = None
    message: str = ""

    def to_json(self) -> dict[str, Any]:
        """The document of docs/contracts.md, "Progress"."""
        return {
            "schemaVersion": 1,
            "stage": self.stage,
            "step": self.step,
            "totalSteps": self.total_steps,
            "fraction": round(self.step / self.total_steps, 4) if self.total_steps else None,
            "loss": _rounded(self.loss, 4),
            "tokensPerSecond": _rounded(self.tokens_per_second, 1),
            "etaSeconds": _rounded(self.eta_seconds, 0),
            "checkpointSeconds": _rounded(self.checkpoint_seconds, 1),
            "checkpointStep": self.checkpoint_step,
            "stepSeconds": _rounded(self.step_seconds, 3),
            "steppedAt": _utc(self.step_timestamp_seconds),
            "candidate": self.candidate,
            "judgeCost": _rounded(self.judge_cost, 6),
            "message": self.message,
        }

    def to_metrics(self) -> bytes:
        """The same numbers in Prometheus' text format; unknown ones are left out."""
        registry = CollectorRegistry()
        for name, value in asdict(self).items():
            if isinstance(value, int | float):
                gauge = Gauge(f"finetune_{name}", _HELP[name], ["stage"], registry=registry)
                gauge.labels(self.stage).set(value)
        return generate_latest(registry)


class ProgressServer:
    """Serves the latest Progress from a thread; a context manager.

    A stage must not fail because nobody can watch it: if the port is taken, this only logs.
    """

    def __init__(self, stage: str, port: int | None = None) -> None:
        """`port` None means FT_PROGRESS_PORT or 8080; 0 lets the system choose."""
        self._port = int(os.environ.get("FT_PROGRESS_PORT", PORT)) if port is None else port
        self._progress = Progress(stage)
        self._server: ThreadingHTTPServer | None = None

    @property
    def progress(self) -> Progress:
        """What is served now."""
        return self._progress

    @property
    def port(self) -> int | None:
        """Where it listens; None when it does not."""
        return self._server.server_address[1] if self._server else None

    def update(self, **changes: Any) -> None:
        """Replace some fields of the Progress."""
        self._progress = replace(self._progress, **changes)

    def stepped(self, **changes: Any) -> None:
        """The same, when a step or row was done just now."""
        self.update(step_timestamp_seconds=time.time(), **changes)

    def __enter__(self) -> "ProgressServer":
        try:
            self._server = ThreadingHTTPServer(("", self._port), self._handler())
        except OSError as error:
            _log.warning("progress is not served on port %s: %s", self._port, error)
            return self
        self._server.daemon_threads = True
        serve = self._server.serve_forever
        threading.Thread(target=serve, args=(_POLL_SECONDS,), daemon=True, name="progress").start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/progress":
                    self._answer("application/json", json.dumps(outer.progress.to_json()).encode())
                elif self.path == "/metrics":
                    self._answer(_TEXT, outer.progress.to_metrics())
                else:
                    self.send_error(404)

            def _answer(self, kind: str, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Stay silent: the operator asks every few seconds."""

        return Handler


def watching(server: ProgressServer) -> Callable[[str, int, int | None], None]:
    """What tells a server how far rows are: what is done with them, how many, of how many (None: unknown)."""

    def watch(doing: str, done: int, total: int | None) -> None:
        of = f" of {total:,}" if total else ""
        server.update(step=done, total_steps=total, message=f"{doing}: {done:,}{of} rows" if done else doing)

    return watch


_HELP = {
    "step": "Steps done.",
    "total_steps": "Steps in all.",
    "loss": "Training loss of the last optimizer step.",
    "tokens_per_second": "Tokens trained per second, without padding.",
    "eta_seconds": "Estimated seconds until the stage is done.",
    "checkpoint_seconds": "Seconds that the last checkpoint took.",
    "checkpoint_step": "Step of the newest complete checkpoint.",
    "step_seconds": "Median of the seconds that the last training steps took.",
    "judge_cost": "What the judge of answers cost since the stage began, by the prices of the job.",
    "step_timestamp_seconds": "When the last step or answered row was done, in seconds since 1970.",
}


def _utc(timestamp: float | None) -> str | None:
    if timestamp is None:
        return None
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _rounded(number: float | None, digits: int) -> float | None:
    # NaN and infinity are not JSON; a reader would refuse the whole document.
    if number is None or number != number or number in (float("inf"), float("-inf")):
        return None
    return round(number, digits)
