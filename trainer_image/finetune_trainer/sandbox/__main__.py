"""Run programs and their tests: JSON lines {"id", "program", "tests"} in, {"id", "passed", "reason"} out.

`passed` is null where nothing is known: the tests are no Python, or the machine could not run them. Nothing
is written before the last program has ended, and none runs where one could reach the network or this process:
the only line is then {"refused": why}.
"""

import argparse
import asyncio
import ctypes
import json
import shutil
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune_trainer.sandbox.limits import MIB, Limits
from finetune_trainer.sandbox.probe import prove
from finetune_trainer.sandbox.run import NotRun, run_tests

_PR_SET_DUMPABLE = 4


def main(arguments: list[str] | None = None) -> int:
    """Read all, run one after the other, then write what came of them."""
    options = parser().parse_args(arguments)
    # No process of the same user may look into this one, whose memory holds the results.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    limits = Limits(memory=options.memory_mib * MIB)
    with options.programs.open(encoding="utf-8") as file:
        results = asyncio.run(_judged(map(json.loads, file), limits))
    _write(options.results, results)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(prog="python -m finetune_trainer.sandbox", description=__doc__)
    found.add_argument("--programs", type=Path, required=True, help="file to read")
    found.add_argument("--results", type=Path, required=True, help="file to write, alone in its folder")
    found.add_argument("--memory-mib", type=int, default=Limits.memory // MIB, help="for each program")
    return found


async def _judged(rows: Iterable[dict[str, Any]], limits: Limits) -> list[dict[str, Any]]:
    try:
        await prove(limits)
    except NotRun as refused:
        return [{"refused": str(refused)}]
    return [await _result(row, limits) for row in rows]


async def _result(row: dict[str, Any], limits: Limits) -> dict[str, Any]:
    own = replace(limits, seconds=float(row.get("seconds", limits.seconds)))
    try:
        outcome = await run_tests(str(row["program"]), str(row["tests"]), own)
    except NotRun as failure:  # of this one: the machine was too busy, or out of memory
        return {"id": row["id"], "passed": None, "reason": f"it could not be run: {failure}"}
    return {"id": row["id"], "passed": outcome.passed, "reason": outcome.reason}


def _write(path: Path, results: Iterable[dict[str, Any]]) -> None:
    """Write the results, and nothing but them: programs could write to the folder too while they ran."""
    for entry in path.parent.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    path.write_text("".join(json.dumps(result) + "\n" for result in results), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
