"""Structured logs: one JSON object per line on stderr, with the run that it belongs to."""

import json
import logging
import sys
from typing import Any

from finetune_trainer.contracts import Job


class JsonFormatter(logging.Formatter):
    """Format a record as one JSON line with `context` in front."""

    def __init__(self, context: dict[str, Any]) -> None:
        super().__init__()
        self._context = context

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON: time, level, context, message and, if any, the traceback."""
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            **self._context,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure(job: Job) -> None:
    """Send all logging to stderr, marked with the job's namespace, name, stage and attempt."""
    handler = logging.StreamHandler(sys.stderr)
    context = {"namespace": job.namespace, "name": job.name, "stage": job.stage, "attempt": job.attempt}
    handler.setFormatter(JsonFormatter(context))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # One line per HTTP request would bury what the stage says.
    logging.getLogger("httpx").setLevel(logging.WARNING)
