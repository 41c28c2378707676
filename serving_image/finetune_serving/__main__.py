"""Command line of the serving image: `python -m finetune_serving COMMAND`.

Everything heavy is imported by the command that needs it, so the probe stays light.
"""

import argparse
import sys
from pathlib import Path

from finetune_serving.options import add_options, options_of


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
        from finetune_serving.fetch_base import Base, fetch_base

        return fetch_base(Base(args.source, args.revision, args.fingerprint), args.to, args.credentials)
    if args.command == "import-adapter":
        from finetune_serving.import_adapter import import_adapter

        return import_adapter(args.source, args.base)
    from finetune_serving.serve import run_gateway

    return run_gateway(options_of(args))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="finetune_serving", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    health = commands.add_parser("health", help="exit 0 when the engine answers")
    health.add_argument("--uds", default="/run/engine/engine.sock")
    health.add_argument(
        "--start-seconds", type=float, default=0.0, help="exit 0 too while it loads, for this long"
    )
    _engine(commands.add_parser("engine", help="vLLM on a unix socket"))
    add_options(commands.add_parser("gateway", help="OpenAI API on :8000, agent on :8001"))
    fetch = commands.add_parser("fetch-base", help="copy a base model from a hub or a bucket to a folder")
    fetch.add_argument(
        "--source", required=True, help="hf://ORG/NAME, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX"
    )
    fetch.add_argument("--revision", help="commit of an hf:// model, 40 hex digits")
    fetch.add_argument("--fingerprint", help="of a model in a bucket, sha256:...")
    fetch.add_argument("--to", type=Path, required=True)
    fetch.add_argument(
        "--credentials",
        type=Path,
        default=Path("/etc/finetune/credentials/base-model"),
        help="folder of a mounted Secret, read if it exists",
    )
    imported = commands.add_parser(
        "import-adapter", help="write the manifest of an adapter of another trainer"
    )
    imported.add_argument("--from", dest="source", type=Path, required=True, help="folder of save_pretrained")
    imported.add_argument("--base", type=Path, required=True, help="folder of the model it was trained on")
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


if __name__ == "__main__":
    sys.exit(main())
