"""Command line of the serving image: `python -m finetune_serving <engine|gateway|fetch-base|health>`.

Everything heavy is imported by the command that needs it, so the probe stays light.
"""

import argparse
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = _parser().parse_args(argv)
    if args.command == "health":
        from finetune_serving.health import check

        return check(args.uds, args.start_seconds)
    if args.command == "engine":
        from finetune_serving.engine import run_engine

        return run_engine(args)
    if args.command == "fetch-base":
        from finetune_serving.fetch_base import fetch_base

        return fetch_base(args.source, args.revision, args.to, args.token_file)
    from finetune_serving.serve import run_gateway

    return run_gateway(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="finetune_serving", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    health = commands.add_parser("health", help="exit 0 when the engine answers")
    health.add_argument("--uds", default="/run/engine/engine.sock")
    health.add_argument(
        "--start-seconds", type=float, default=0.0, help="exit 0 too while it loads, for this long"
    )
    _engine(commands.add_parser("engine", help="vLLM on a unix socket"))
    _gateway(commands.add_parser("gateway", help="OpenAI API on :8000, agent on :8001"))
    fetch = commands.add_parser("fetch-base", help="download an hf:// base model into a folder")
    fetch.add_argument("--source", required=True, help="hf://ORG/NAME")
    fetch.add_argument("--revision", required=True, help="commit, 40 hex digits")
    fetch.add_argument("--to", type=Path, required=True)
    fetch.add_argument(
        "--token-file",
        type=Path,
        default=Path("/etc/finetune/credentials/base-model/token"),
        help="read if it exists",
    )
    return parser


def _engine(engine: argparse.ArgumentParser) -> None:
    engine.add_argument("--model", required=True, help="folder of the base model")
    engine.add_argument("--served-name", required=True, help="model name of the untuned base")
    engine.add_argument("--uds", default="/run/engine/engine.sock")
    engine.add_argument("--max-loras", type=int, default=2, help="adapters in one batch; 0: none at all")
    engine.add_argument("--max-cpu-loras", type=int, default=4, help="adapters held at all")
    engine.add_argument("--max-lora-rank", type=int, default=64)
    engine.add_argument("--tensor-parallel-size", type=int, default=1, help="GPUs that share the model")
    engine.add_argument("--max-model-len", type=int, default=None, help="default: the model's own")


def _gateway(gateway: argparse.ArgumentParser) -> None:
    gateway.add_argument("--manifest", type=Path, default=Path("/etc/finetune/server/manifest.json"))
    gateway.add_argument("--uds", default="/run/engine/engine.sock")
    gateway.add_argument("--model", type=Path, required=True, help="folder of the base model (fingerprint)")
    gateway.add_argument(
        "--derived-from", default=None, help="fingerprint of the model that the base is a quantised form of"
    )
    gateway.add_argument(
        "--keys", type=Path, default=None, help="folder of API keys; left out: no key needed"
    )
    gateway.add_argument("--max-lora-rank", type=int, default=64, help="what the engine was started with")
    gateway.add_argument("--adapters", type=Path, default=Path("/adapters"), help="local copies")
    gateway.add_argument("--sources", type=Path, default=Path("/sources"), help="root of mounted claims")
    gateway.add_argument("--host", default="0.0.0.0")  # noqa: S104 - the pod's own address
    gateway.add_argument("--port", type=int, default=8000)
    gateway.add_argument("--agent-port", type=int, default=8001)
    gateway.add_argument("--max-body-bytes", type=int, default=8 * 1024 * 1024)
    gateway.add_argument(
        "--drain-seconds", type=float, default=100.0, help="longest wait for requests at exit"
    )


if __name__ == "__main__":
    sys.exit(main())
