"""Structured logs: one JSON object per line on stderr. Bodies of requests and keys never appear in them."""

import json
import logging
import sys


class JsonFormatter(logging.Formatter):
    """Format a record as one JSON line; what the caller passes as `extra={"fields": {...}}` joins it."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON: time, level, logger, message, its fields and, if any, the traceback."""
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure() -> None:
    """Send all logging of this process to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # One line per request would bury what matters; /metrics counts requests.
    for name in ("aiohttp.access", "httpx", "httpx2"):
        logging.getLogger(name).setLevel(logging.WARNING)
