"""How the operator scales: a real etcd and kube-apiserver, no kubelet, the operator as a process of its own.

    python -m benchmarks.operator [--runs 1000] [--only first-jobs,under-way,...] [--quick] [--no-write]

A stand-in plays Job controller, scheduler and kubelets; nothing else is played. Runs ask for one GPU and have
all five stages, in ten namespaces. Requests are counted by the API server's audit log. Scenarios:

- first-jobs: runs are created as fast as the server takes them, until each has its first Job; before it, on
  a server of its own, a plain kopf handler that creates one Job per object of a kind of its own
- under-way: every run trains and its progress changes every 10 s; requests and status writes per second
- latency: 50 changes of specs a second, from the event of a change to a status that has seen it
- restart: from the start of the process until each active and twice as many finished runs are reconciled once
- memory: the resident memory of that process after settling
- growth: first-jobs, restart and memory with as many, 2.5 and 5 times as many runs, which stay in their first
  stage, without finished ones; left out of --quick

What is measured is printed as soon as it is known.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from benchmarks.operator.client import Client
from benchmarks.operator.control_plane import ControlPlane, control_plane, furnish
from benchmarks.operator.copies import Sample, finish_one, multiply
from benchmarks.operator.process import operator, plain_handler
from benchmarks.operator.scenarios import KOPF, OURS, Figures, first_jobs, latency, restart, under_way
from benchmarks.operator.stand_in import standing_in
from benchmarks.record import write

AFTERWARDS = ("under-way", "latency", "restart", "memory")
SCENARIOS = ("first-jobs", *AFTERWARDS, "growth")
GROWTH = (1.0, 2.5, 5.0)
FINISHED_PER_ACTIVE = 2


@dataclass(frozen=True)
class Durations:
    """Seconds of looking, and of waiting for what is under way to come to rest."""

    under_way: float
    latency: float
    settle: float


FULL, QUICK = Durations(60, 60, 30), Durations(10, 5, 3)


def main() -> None:
    """Measure and record."""
    options = _parser().parse_args()
    start = time.monotonic()
    only = options.only or (("first-jobs", *AFTERWARDS) if options.quick else SCENARIOS)
    measured = asyncio.run(measure(options.runs, only, QUICK if options.quick else FULL))
    measured["seconds"] = round(time.monotonic() - start)
    print(json.dumps(measured, indent=2))
    if not options.no_write:
        print("written:", write("operator", measured, ("kopf", "kubernetes", "aiohttp", "pydantic")))


async def measure(runs: int, only: Container[str], durations: Durations) -> Figures:
    """Every chosen scenario; each size of `growth` has a server of its own."""
    found: Figures = {"runs": runs}
    with tempfile.TemporaryDirectory() as folder:
        if "first-jobs" in only:
            found["plainHandler"] = await beside(Path(folder) / "plain", runs)
        if only != ("growth",):
            found |= await at_size(Path(folder) / "0", runs, only, durations)
        if "growth" in only:
            sizes = [round(runs * factor) for factor in GROWTH]
            places = [(Path(folder) / f"growth-{size}", size) for size in sizes]
            found["growth"] = [await grown(place, size, durations) for place, size in places]
    if "first-jobs" in only:
        ours, plain = found["firstJobs"], found["plainHandler"]
        found["ratio"] = round(ours["jobsPerSecond"] / plain["jobsPerSecond"], 2)
    return found


async def at_size(folder: Path, runs: int, only: Container[str], durations: Durations) -> Figures:
    """The chosen scenarios; the runs of first-jobs are what the others look at."""
    with control_plane(folder) as plane:
        async with plane.client() as client:
            await furnish(client)
            sample = await _finished_run(plane, client, durations)
            found: Figures = {"firstJobs": await _first_jobs(plane, client, runs)}
            if all(name not in only for name in AFTERWARDS):
                return found
            async with standing_in(client) as player:
                async with operator(plane) as running:
                    await player.all_train(runs)
                    await asyncio.sleep(durations.settle)
                    if "under-way" in only:
                        found["underWay"] = await under_way(plane, running, player, durations.under_way)
                    if "latency" in only:
                        found["latency"] = await latency(client, durations.latency)
                    _told(found)
                await multiply(client, sample, FINISHED_PER_ACTIVE * runs)
                return found | await _restarted(plane, client, durations)


async def beside(folder: Path, runs: int) -> Figures:
    """First Jobs of the plain kopf handler."""
    with control_plane(folder) as plane:
        async with plane.client() as client:
            await furnish(client)
            async with plain_handler(plane):
                return _told(await first_jobs(plane, client, KOPF, runs))


async def grown(folder: Path, runs: int, durations: Durations) -> Figures:
    """First Jobs, restart and memory; the runs stay in their first stage, which nothing plays."""
    with control_plane(folder) as plane:
        async with plane.client() as client:
            await furnish(client)
            found = {"runs": runs, "firstJobs": await _first_jobs(plane, client, runs)}
            return found | await _restarted(plane, client, durations)


async def _finished_run(plane: ControlPlane, client: Client, durations: Durations) -> Sample:
    async with standing_in(client), operator(plane):
        return await finish_one(client, durations.settle)


async def _restarted(plane: ControlPlane, client: Client, durations: Durations) -> Figures:
    """The operator started anew over what is there."""
    async with operator(plane) as running:
        found: Figures = {"restart": await restart(client, running)}
        await asyncio.sleep(durations.settle)
        found["memory"] = {"residentMiB": running.resident_mib()}
    return _told(found)


async def _first_jobs(plane: ControlPlane, client: Client, runs: int) -> Figures:
    async with operator(plane):
        return _told(await first_jobs(plane, client, OURS, runs))


def _told(found: Figures) -> Figures:
    """A failure later on must not take these figures with it."""
    print(json.dumps(found), file=sys.stderr, flush=True)
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--only", type=_names, help="names with commas between them")
    parser.add_argument("--quick", action="store_true", help="look for seconds instead of a minute")
    parser.add_argument("--no-write", action="store_true", help="leave the recorded results as they are")
    return parser


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    unknown = ", ".join(name for name in names if name not in SCENARIOS)
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown: {unknown}; known: {', '.join(SCENARIOS)}")
    return names


if __name__ == "__main__":
    main()
