"""One program and its tests in a process that is confined, watched and killed (program.py)."""

import asyncio
import json
import os
import secrets
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from finetune_trainer.sandbox.limits import MIB, Limits

_PROGRAM = Path(__file__).with_name("program.py")
_START_SECONDS = 30.0  # a machine that is busy; the program's own time begins after
_LINE = 1 << 16
_KEPT, _SHOWN = 4096, 300


class NotRun(Exception):  # noqa: N818
    """The program could not be run as it has to be; nothing is known of it."""


@dataclass(frozen=True)
class Outcome:
    """Whether the tests ran to their end, and if not, why; `passed` is None when the tests are no Python."""

    passed: bool | None
    reason: str = ""


class _PrintedTooMuch(Exception):  # noqa: N818
    """More text than anybody reads."""


async def run_tests(program: str, tests: str, limits: Limits) -> Outcome:
    """Run a program and then its tests in the same namespace; NotRun when it could not be confined.

    The time of its limits is for both. Its folder is removed, whatever it left there.
    """
    with TemporaryDirectory(prefix="answer-", ignore_cleanup_errors=True) as folder:
        async with _started(folder, limits) as (process, report):
            try:
                return await _watched(process, report, program, tests, limits)
            except _PrintedTooMuch:
                return Outcome(False, f"it printed more than {limits.printed / MIB:.0f} MiB")
            except TimeoutError:
                return Outcome(False, f"it did not end within {limits.seconds:g} s")


@asynccontextmanager
async def _started(folder: str, limits: Limits) -> AsyncIterator[tuple[Process, asyncio.StreamReader]]:
    """The process and what it reports. It is killed at the end; it has no children (system_calls.py)."""
    receives, sends = os.pipe()
    arguments = (str(_PROGRAM), str(os.getpid()), str(sends), _told(limits))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-B", "-X", "utf8", *arguments,
        stdin=PIPE, stdout=PIPE, stderr=STDOUT, pass_fds=(sends,), cwd=folder, env={}, start_new_session=True,
    )  # fmt: skip
    os.close(sends)
    report = asyncio.StreamReader(limit=_LINE)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(report), os.fdopen(receives, "rb")
    )
    try:
        yield process, report
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        transport.close()


def _told(limits: Limits) -> str:
    return json.dumps(
        {
            "RLIMIT_AS": limits.memory,
            "RLIMIT_CPU": limits.processor_seconds,
            "RLIMIT_FSIZE": limits.file,
            "RLIMIT_NOFILE": limits.open_files,
            "RLIMIT_CORE": 0,
        }
    )


async def _watched(
    process: Process, report: asyncio.StreamReader, program: str, tests: str, limits: Limits
) -> Outcome:
    printed = bytearray()
    talking = asyncio.ensure_future(_talk(process, report, program, tests, limits, printed))
    printing = asyncio.ensure_future(_read(process, limits.printed, printed))
    try:
        await asyncio.wait((talking, printing), return_when=asyncio.FIRST_COMPLETED)
        if printing.done():
            printing.result()  # what is printed may end long before the program does
        return await talking
    finally:
        talking.cancel()
        printing.cancel()
        await asyncio.gather(talking, printing, return_exceptions=True)


async def _talk(
    process: Process,
    report: asyncio.StreamReader,
    program: str,
    tests: str,
    limits: Limits,
    printed: bytearray,
) -> Outcome:
    try:
        async with asyncio.timeout(_START_SECONDS):
            ready = "ready" in await _said(report)
    except TimeoutError:
        ready = False
    if not ready:
        raise NotRun(printed.decode(errors="replace").strip()[-_SHOWN:] or "the process did not start")
    async with asyncio.timeout(limits.seconds):
        await _tell(process, program)
        if "loaded" not in (said := await _said(report)):
            return await _failed(process, said)
        word = secrets.token_hex(16)
        await _tell(process, {"tests": tests, "word": word})
        said = await _said(report)
        return Outcome(True) if said.get("passed") == word else await _failed(process, said)


async def _said(report: asyncio.StreamReader) -> dict[str, Any]:
    """The next line of the report, {} at its end or when it is none of ours: the program can write there."""
    with suppress(ValueError):  # not JSON, or longer than any line of ours
        document = json.loads(await report.readline())
        return document if isinstance(document, dict) else {}
    return {}


async def _tell(process: Process, what: str | dict[str, str]) -> None:
    if process.stdin is not None:
        process.stdin.write(json.dumps(what).encode() + b"\n")
        with suppress(ConnectionError):  # it has ended, which its report shows
            await process.stdin.drain()


async def _read(process: Process, most: int, kept: bytearray) -> None:
    """Read what is printed and keep its beginning; _PrintedTooMuch beyond `most` bytes."""
    size = 0
    while process.stdout is not None and (piece := await process.stdout.read(1 << 16)):
        size += len(piece)
        kept += piece[: max(0, _KEPT - len(kept))]
        if size > most:
            raise _PrintedTooMuch


async def _failed(process: Process, said: dict[str, Any]) -> Outcome:
    error = str(said.get("error", ""))[-_SHOWN:]
    if said.get("unreadable") == "tests":
        return Outcome(None, f"the tests are not valid Python: {error}")
    if said.get("unreadable") or said.get("raised"):
        return Outcome(False, error)
    status = await process.wait()
    how = signal.Signals(-status).name if status < 0 else f"exit code {status}"
    return Outcome(False, f"it ended before its tests did ({how})")
