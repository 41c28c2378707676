"""The gateway container's options, each declared once: a field here, and a flag of the same name.

Only the standard library: the command line reads this module for every command, the probe's too.
"""

import argparse
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Annotated, get_args, get_type_hints


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the gateway container; sizes in bytes, times in seconds."""

    model: Annotated[Path, "folder of the base model (fingerprint)"]
    manifest: Annotated[Path, "the server manifest"] = Path("/etc/finetune/server/manifest.json")
    uds: Annotated[Path, "the engine's socket"] = Path("/run/engine/engine.sock")
    derived_from: Annotated[str | None, "fingerprint of what the base is a quantised form of"] = None
    peers: Annotated[str | None, "address of the server's Service, http://NAME:PORT"] = None
    keys: Annotated[Path | None, "folder of API keys; left out: no key needed"] = None
    max_lora_rank: Annotated[int, "what the engine was started with"] = 64
    adapters: Annotated[Path, "local copies"] = Path("/adapters")
    sources: Annotated[Path, "root of mounted claims"] = Path("/sources")
    host: Annotated[str, "address to listen on"] = "0.0.0.0"  # noqa: S104 - the pod's own address
    port: Annotated[int, "OpenAI API"] = 8000
    agent_port: Annotated[int, "state, health and metrics"] = 8001
    drain_seconds: Annotated[float, "longest wait for requests at exit"] = 100.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """One flag per field of Options."""
    hints = get_type_hints(Options, include_extras=True)
    for one in fields(Options):
        kind, text = hints[one.name].__origin__, hints[one.name].__metadata__[0]
        required = one.default is MISSING
        parser.add_argument(
            f"--{one.name.replace('_', '-')}",
            type=next(part for part in get_args(kind) or (kind,) if part is not NoneType),
            required=required,
            default=None if required else one.default,
            help=text,
        )


def options_of(args: argparse.Namespace) -> Options:
    """The options that were given on the command line."""
    return Options(**{one.name: getattr(args, one.name) for one in fields(Options)})
