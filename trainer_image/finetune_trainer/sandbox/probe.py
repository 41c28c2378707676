"""Whether code is really confined here: a program tries what the code of a model must not be able to."""

from finetune_trainer.sandbox.limits import Limits
from finetune_trainer.sandbox.run import NotRun, run_tests
from finetune_trainer.sandbox.system_calls import supported

_ATTEMPTS = """
import os, socket, subprocess, sys

def opens(name):
    open(f"/proc/{os.getppid()}/{name}", "rb").close()

def starts():
    if os.fork() == 0:
        os._exit(0)

attempts = {
    "open a socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "start a process": starts,
    "start a program": lambda: subprocess.run([sys.executable, "-c", ""]),
    "signal the runner": lambda: os.kill(os.getppid(), 0),
    "read the runner's memory": lambda: opens("mem"),
    "read the runner's environment": lambda: opens("environ"),
}
succeeded = []
for name, attempt in attempts.items():
    try:
        attempt()
    except OSError:
        continue
    succeeded.append(name)
"""
_TESTS = "assert not succeeded, 'it could ' + ', '.join(succeeded)"


async def prove(limits: Limits) -> None:
    """NotRun when a program could do what it must not, or cannot be confined on this machine at all."""
    if not supported():
        raise NotRun("which system calls to refuse is known for Linux on x86_64 and aarch64 alone")
    outcome = await run_tests(_ATTEMPTS, _TESTS, limits)
    if not outcome.passed:
        raise NotRun(outcome.reason.removeprefix("AssertionError: "))
