"""Processes that tokenise and never compute."""

import os
import sys
from typing import Any

_modules: dict[str, Any] = sys.modules


def hide_torch() -> None:
    """Keep transformers from importing torch in this process: 4 s and 600 MB less, and tokenizers need none.

    Only for a process of its own: what is hidden stays hidden.
    """
    _modules.setdefault("torch", None)
    os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"  # it would warn that torch is missing


def use_one_thread() -> None:
    """Keep tokenizers from starting a thread per core: every core has a process already."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
