"""Judge programs by their tests: JSON lines {"id", "program", "tests"} in, {"id", "passed", "reason"} out.

`passed` is null where nothing is known: the tests are no Python, or the machine could not run them. Nothing
is written before the last program has ended, and none runs where one could reach the network or this process.
"""

import argparse
import asyncio
import ctypes
import json
import sys
from collections.abc import Iterable
from typing import Any

from finetune_trainer.sandbox.limits import MIB, Limits
from finetune_trainer.sandbox.probe import prove
from finetune_trainer.sandbox.run import NotRun, run_tests

REFUSED = 64
_PR_SET_DUMPABLE = 4


def main(arguments: list[str] | None = None) -> int:
    """Read all, run one after the other, then write; 64 when code would not be confined here."""
    parser = argparse.ArgumentParser(prog="python -m finetune_trainer.sandbox", description=__doc__)
    parser.add_argument("--seconds", type=float, default=Limits.seconds, help="for each program")
    parser.add_argument("--memory-mib", type=int, default=Limits.memory // MIB, help="for each program")
    options = parser.parse_args(arguments)
    # No process of the same user may look into this one, whose memory holds the results.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    limits = Limits(seconds=options.seconds, memory=options.memory_mib * MIB)
    try:
        results = asyncio.run(_judged(map(json.loads, sys.stdin), limits))
    except NotRun as refused:
        sys.stderr.write(f"No code of a model is run here: {refused}.\n")
        return REFUSED
    sys.stdout.writelines(json.dumps(result) + "\n" for result in results)
    return 0


async def _judged(rows: Iterable[dict[str, Any]], limits: Limits) -> list[dict[str, Any]]:
    await prove(limits)
    return [await _result(row, limits) for row in rows]


async def _result(row: dict[str, Any], limits: Limits) -> dict[str, Any]:
    try:
        outcome = await run_tests(str(row["program"]), str(row["tests"]), limits)
    except NotRun as failure:  # of this one: the machine was too busy, or out of memory
        return {"id": row["id"], "passed": None, "reason": f"it could not be run: {failure}"}
    return {"id": row["id"], "passed": outcome.passed, "reason": outcome.reason}


if __name__ == "__main__":
    sys.exit(main())
