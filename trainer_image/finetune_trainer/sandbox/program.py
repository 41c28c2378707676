"""The process that runs a program and then its tests: it gives up everything first, and then reads both.

Started as `python -I -S -B program.py PARENT REPORT LIMITS`; reads two lines from its input (the program as
a JSON string; then the tests and a word), and writes to the descriptor REPORT how far it came, a JSON object
on a line: `ready` once it is confined, `loaded` after the program, and at the end the word or the error.
It gets the tests and the word only after the program: one that ends the process early cannot have said it.
"""

import ctypes
import json
import os
import resource
import runpy
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG, _SIGKILL = 1, 9
_SHOWN = 300


def main(parent: int, report: int, limits: Mapping[str, int]) -> None:
    """Confine this process, run what it is given, and say how far it came."""
    _confine(parent, limits)
    _say(report, {"ready": True})
    namespace: dict[str, Any] = {"__name__": "answer"}
    if problem := _run("answer", json.loads(sys.stdin.readline()), namespace):
        _say(report, problem)
        return
    _say(report, {"loaded": True})
    given = json.loads(sys.stdin.readline())
    _say(report, _run("tests", given["tests"], namespace) or {"passed": given["word"]})


def _confine(parent: int, limits: Mapping[str, int]) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the runner is gone")
    for name, most in limits.items():
        resource.setrlimit(getattr(resource, name), (most, most))
    # A file beside this one: an isolated interpreter has no package of ours on its path.
    runpy.run_path(str(Path(__file__).with_name("system_calls.py")))["refuse_system_calls"]()


def _run(name: str, source: str, namespace: dict[str, Any]) -> dict[str, str] | None:
    """Run source text; what kept it from its end is returned, a program that ends itself included."""
    try:
        code = compile(source, name, "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return {"unreadable": name, "error": _in_words(error)}
    try:
        exec(code, namespace)  # noqa: S102 - what this process is for
    except BaseException as error:
        return {"raised": name, "error": _in_words(error)}
    return None


def _in_words(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).strip()[-_SHOWN:]


def _say(report: int, document: Mapping[str, Any]) -> None:
    os.write(report, json.dumps(document).encode() + b"\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]))
