"""`python -m dev`: the embedded cluster, the demo and the test suite from one command line."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from dev.chart import ChartError
from dev.cluster import binaries, down, status, up
from dev.cluster.failure import ClusterError
from dev.cluster.home import State, home
from dev.images.failure import ImageError

CANNOT_RUN = 2
"""Exit code when something is missing on this machine; the sentence on stderr says what."""


def main(arguments: Sequence[str]) -> int:
    """Run one command; its exit code."""
    options = parser().parse_args(arguments)
    try:
        return run(options, home())
    except (ClusterError, ImageError, ChartError) as error:
        print(error, file=sys.stderr)
    except PermissionError as error:
        print(f"{error.filename} cannot be read: the cluster belongs to root, use sudo", file=sys.stderr)
    return CANNOT_RUN


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(prog="python -m dev", description=__doc__)
    commands = found.add_subparsers(dest="command", required=True, metavar="COMMAND")
    start = commands.add_parser("up", help="start the cluster and install the operator")
    start.add_argument("--bare", action="store_true", help="without images and operator")
    commands.add_parser("down", help="stop it; objects and volumes go, binaries and images stay")
    commands.add_parser("status", help="show the parts and their health")
    commands.add_parser("kubeconfig", help="print the path of the administrator's kubeconfig")
    commands.add_parser("kueue", help="install Kueue, built from its Go module, into the running cluster")
    commands.add_parser("demo", help="tune, gate and serve a real model")
    tests = commands.add_parser("test", help="run every test suite")
    tests.add_argument("--only", help="one suite by name")
    return found


def run(options: argparse.Namespace, folder: Path) -> int:
    """Dispatch; what is heavy to import is imported where it is needed."""
    if options.command == "demo":
        from dev.demo.run import main as demo

        return demo(folder)
    if options.command == "test":
        from dev.suite import main as suite

        return suite(folder, options.only)
    if options.command == "kueue":
        return queueing(folder)
    if options.command == "up":
        return start(folder, bare=options.bare)
    if options.command == "down":
        return stop(folder)
    if options.command == "status":
        return status.show(folder, Console())
    print(State(folder).kubeconfig)
    return 0


def start(folder: Path, *, bare: bool) -> int:
    """`up`, with its time and the line to type next."""
    begun = time.monotonic()
    running = up.up(folder, bare=bare)
    print(f"The cluster is up ({time.monotonic() - begun:.0f} s). Use it with:\n")
    print(f"  export KUBECONFIG={running.kubeconfig}\n  {running.binaries / 'kubectl'} get nodes")
    return 0


def queueing(folder: Path) -> int:
    """Kueue in the running cluster, with its time."""
    from dev import kueue

    begun = time.monotonic()
    if not State(folder).kubeconfig.exists():
        raise ClusterError("the embedded cluster is not up; start it with: make up")
    kueue.install(folder, State(folder).kubeconfig, binaries.ensure() / "helm")
    print(f"Kueue {kueue.VERSION} runs in namespace {kueue.NAMESPACE} ({time.monotonic() - begun:.0f} s).")
    return 0


def stop(folder: Path) -> int:
    """`down`, with its time."""
    begun = time.monotonic()
    down.down(folder)
    print(f"The cluster is down ({time.monotonic() - begun:.0f} s): its objects and volumes are gone;")
    print(f"programs and images stay in {folder}.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
