"""`python -m finetune_operator run`: the operator."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from pathlib import Path

from finetune_operator.runtime.process.logs import configure

log = logging.getLogger("finetune_operator")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    configure(options.log_level)
    try:
        return _run(options)
    except Exception:  # the log is JSON to its last line
        log.critical("ending", exc_info=True)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="finetune-operator", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="reconcile until SIGTERM")
    run.add_argument("--kubeconfig", type=Path, default=_from_environment(), help="default: the pod's own")
    run.add_argument("--namespace", default="all", help="the one namespace to serve, or all (default)")
    run.add_argument("--host", default="0.0.0.0", help="address of probes and metrics")  # noqa: S104
    run.add_argument("--port", type=int, default=8080, help="port of probes and metrics")
    run.add_argument(
        "--lease", type=_lease, metavar="NAMESPACE/NAME", help="lead by this Lease; default: alone"
    )
    run.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    return parser


def _lease(value: str) -> tuple[str, str]:
    namespace, separator, name = value.partition("/")
    if not (namespace and separator and name):
        raise argparse.ArgumentTypeError(f"{value!r} is not NAMESPACE/NAME")
    return namespace, name


def _from_environment() -> Path | None:
    path = os.environ.get("KUBECONFIG")
    return Path(path) if path else None


def _run(options: argparse.Namespace) -> int:
    # kopf imports the kubernetes client where it is installed, to accept its objects: 40 MiB unused.
    sys.modules.setdefault("kubernetes", None)  # type: ignore[arg-type]
    # Imported late, so that a wrong argument and --help answer at once.
    from finetune_operator.app import Options, run
    from finetune_operator.contracts.settings import SettingsError
    from finetune_operator.runtime.client import ApiError
    from finetune_operator.runtime.configuration import ConfigurationError
    from finetune_operator.runtime.process.lifecycle import EndedError, StartError
    from finetune_operator.settings import load_settings

    namespace = None if options.namespace == "all" else options.namespace
    try:
        settings = load_settings()
        where = options.kubeconfig, namespace, options.host, options.port, options.lease
        asyncio.run(run(Options(*where), settings))
    except (ConfigurationError, StartError, SettingsError, ApiError) as error:
        log.critical("cannot start: %s", error)
        return 1
    except EndedError as error:
        log.critical("ending: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
