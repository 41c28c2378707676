"""`python -m tests.faults.operators.forks`: imports the operator once and forks a process for each one that is asked for.

One JSON object per line on stdin ({"arguments", "environment", "log"}) starts one; on stdout come
{"started": pid} and, when it ends, {"ended": pid, "code": exit code, negative for a signal}. Its children are
the operator's command line as it is, in processes of their own that SIGKILL really ends.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import finetune_operator.app
from finetune_operator.__main__ import main


def serve() -> None:
    """Answer requests until stdin ends, then end every child."""
    children: set[int] = set()
    signal.signal(signal.SIGCHLD, lambda *_: _reap(children))
    gc.freeze()
    for line in sys.stdin:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        children.add(pid := _fork(json.loads(line)))
        _tell({"started": pid})
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def _fork(request: dict[str, Any]) -> int:
    if pid := os.fork():
        return pid
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    os.environ.update(request["environment"])
    log = os.open(Path(request["log"]), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    code = 70
    try:
        code = main(request["arguments"])
    finally:
        sys.stderr.flush()
        os._exit(code)


def _reap(children: set[int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        children.discard(pid)
        _tell({"ended": pid, "code": os.waitstatus_to_exitcode(status)})


def _tell(document: dict[str, int]) -> None:
    os.write(1, json.dumps(document).encode() + b"\n")


if __name__ == "__main__":
    assert finetune_operator.app
    assert threading.active_count() == 1, "a fork takes no threads along"
    serve()
