"""Replies of the judge that could be read, by what was asked: nothing is asked and paid twice."""

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

from finetune_trainer.files import write_lines

_MOST = 20_000  # replies that are kept, the newest ones
_log = logging.getLogger(__name__)


def reply_key(
    url: str, model: str, messages: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any]
) -> str:
    """What a reply depends on (64 hex digits)."""
    asked = {"url": url, "model": model, "messages": list(messages), "parameters": dict(parameters)}
    return sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


class Replies:
    """Replies by key; each is appended to a file as it comes, so that an interrupted stage keeps them.

    Without a file they are kept in memory.
    """

    def __init__(self, path: Path | None = None, *earlier: Path) -> None:
        """`path` is read and appended to, `earlier` files are only read; damaged lines do not count."""
        self._path = path
        self._texts: dict[str, str] = {}
        for source in (*earlier, *([path] if path else [])):
            self._texts.update(_read(source))

    def get(self, key: str) -> str | None:
        """The reply that was given before."""
        return self._texts.get(key)

    def add(self, key: str, text: str) -> None:
        """Keep a reply; a volume that takes no more costs the cache, not the evaluation."""
        self._texts[key] = text
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_line(key, text))
        except OSError as error:
            _log.warning("a reply of the judge is not stored: %s", error.strerror)

    def copy_to(self, path: Path) -> None:
        """Keep the newest replies in another file too; what it holds and is not known here is lost."""
        newest = islice(self._texts.items(), max(0, len(self._texts) - _MOST), None)
        try:
            write_lines(path, (_line(key, text) for key, text in newest))
        except OSError as error:
            _log.warning("the judge's replies are not cached beside the destination: %s", error.strerror)


def _line(key: str, text: str) -> str:
    return json.dumps({"key": key, "text": text}) + "\n"


def _read(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    with suppress(OSError, UnicodeDecodeError), path.open(encoding="utf-8") as file:
        for line in islice(file, 4 * _MOST):
            with suppress(ValueError, LookupError, TypeError):
                entry = json.loads(line)
                found[str(entry["key"])] = str(entry["text"])
    return found
