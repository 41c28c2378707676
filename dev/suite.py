"""`python -m dev test`: every test in the order in which failures are cheapest to find."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from dev.cluster import binaries, up
from dev.cluster.machine import host

SUITES = {
    "fast": ["-m", "not slow and not apiserver and not engine and not families and not e2e", "-n", "2"],
    "slow": ["-m", "slow and not long and not apiserver and not engine and not e2e", "-n", "2"],
    "families": ["-m", "families and not engine", "-n", "2", "--dist", "loadgroup"],
    "apiserver": ["-m", "apiserver"],
    "engine": ["-m", "engine"],
    "e2e": ["-m", "e2e and not long"],
}


def main(home: Path, only: str | None = None) -> int:
    """Run the suites one after the other; stop at the first that fails, with its exit code."""
    for name in [only] if only else SUITES:
        if name == "fast":
            host.offer("promtool", "prometheus")
        if name == "apiserver":
            binaries.ensure(["kube-apiserver", "kubectl", "helm"])
        if name.startswith("e2e"):
            up.up(home)
        code = run(name)
        if code != 0:
            return code
    return 0


def run(name: str) -> int:
    """One suite under pytest, with its time."""
    start = time.monotonic()
    print(f"== {name}", flush=True)
    command = [sys.executable, "-m", "pytest", "tests", "-q", "--durations=12", *SUITES[name]]
    # Two workers share two cores: one thread each, or they wait for each other.
    threads = {"OMP_NUM_THREADS": "1"} if "-n" in SUITES[name] else {}
    code = subprocess.run(command, env=os.environ | threads, check=False).returncode
    print(f"== {name}: {time.monotonic() - start:.0f} s", flush=True)
    return code
