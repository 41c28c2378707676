"""Processes that tokenise and never compute."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_modules: dict[str, Any] = sys.modules
_hidden: set[str] = set()  # of this process


def hide_torch() -> None:
    """Let transformers find no torch in this process: 4 s and 600 MB less, and tokenizers need none.

    Only for a process of its own: transformers looks once.
    """
    _hidden.add("torch")
    os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"  # it would warn that torch is missing


@contextmanager
def hiding() -> Iterator[None]:
    """Around the import of transformers; scipy, for one, fails on the mark that hides a module."""
    absent = _hidden - _modules.keys()
    _modules.update(dict.fromkeys(absent))
    try:
        yield
    finally:
        for name in absent:
            del _modules[name]


def use_one_thread() -> None:
    """Keep tokenizers from starting a thread per core: every core has a process already."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
