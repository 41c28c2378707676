"""Train pods as processes of this machine, and the losses that they log."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_STEP = re.compile(r"step (\d+) of (\d+): loss ([\d.e-]+)")


def start(
    run: Any,
    port: int,
    nodes: int = 1,
    processes: int | None = 1,
    rank: int = 0,
    program: Sequence[str] = ("-m", "finetune_trainer"),
) -> "subprocess.Popen[str]":
    """Process 1 of a train pod; `processes` None leaves the number to it.

    `program` may stand in for the trainer's command line.
    """
    given = {} if processes is None else {"FT_PROCESSES": str(processes)}
    environment = os.environ | given | {
        "FT_NODES": str(nodes), "JOB_COMPLETION_INDEX": str(rank),
        "FT_MASTER_ADDR": "127.0.0.1", "FT_MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
        "FT_TERMINATION_LOG": str(run.job_path.with_name(f"termination-{rank}")),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }  # fmt: skip
    command = [sys.executable, *program, "train", "--job", str(run.job_path)]
    command += ["--workspace", str(run.workspace.root)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def losses(lines: Iterator[str]) -> dict[int, float]:
    found = (_STEP.search(line) for line in lines)
    return {int(match[1]): float(match[3]) for match in found if match}


def train(run: Any, port: int, processes: int | None = 1) -> dict[int, float]:
    child = start(run, port, processes=processes)
    assert child.stderr
    seen = losses(iter(child.stderr))
    assert child.wait() == 0
    return seen


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_part(folder: Path, processes: int, method: str, stage: int, last: int, part: str) -> dict[str, Any]:
    """Train until step `last` with the core alone (part_of_run.py); what rank 0 tells of it."""
    worker = Path(__file__).with_name("part_of_run.py")
    run_script(torchrun(worker, str(folder), method, str(stage), str(last), part, processes=processes))
    document: dict[str, Any] = json.loads((folder / f"{part}.json").read_text())
    return document


def torchrun(script: Path, *arguments: str, processes: int = 2) -> list[str]:
    """The command line that runs a script in so many processes."""
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    return [*line, "--max-restarts", "0", "--master-port", str(free_port()), str(script), *arguments]


def run_script(line: list[str]) -> str:
    """Run a command line of torchrun; what its processes logged."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stderr
