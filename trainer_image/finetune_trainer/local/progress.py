"""One line on the terminal that says what is being done, rewritten as it goes on."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from finetune_trainer.data.load import Watch

_SECONDS = 0.2  # between two writes
_CLEAR = "\r\x1b[K"


@contextmanager
def terminal_progress() -> Iterator[Watch]:
    """Where stderr is a terminal, tell there what is done; the line is gone afterwards."""
    shown, last = sys.stderr.isatty(), 0.0

    def watch(doing: str, done: int, total: int | None) -> None:
        nonlocal last
        now = time.monotonic()
        if not shown or now - last < _SECONDS:
            return
        last = now
        sys.stderr.write(_CLEAR + progress_text(doing, done, total))
        sys.stderr.flush()

    try:
        yield watch
    finally:
        sys.stderr.write(_CLEAR if shown else "")


def progress_text(doing: str, done: int, total: int | None) -> str:
    """`tokenising rows: 43,500 of 100,000 rows`, without the total where it is not known."""
    if total is None:
        return f"{doing}: {done:,} rows" if done else doing
    return f"{doing}: {done:,} of {total:,}"
