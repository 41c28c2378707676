"""What an administrator may tell vLLM: arguments for all engines, profiles that servers choose by name."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

Variable = Annotated[str, StringConstraints(pattern="^[A-Za-z_][A-Za-z0-9_]*$")]
Environment = dict[Variable, str]

OWN_FLAGS = (
    "--model",
    "--served-model-name",
    "--uds",
    "--enable-lora",
    "--max-loras",
    "--max-cpu-loras",
    "--max-lora-rank",
    "--tensor-parallel-size",
    "--shutdown-timeout",
    "--disable-fastapi-docs",
    "--disable-uvicorn-access-log",
    "--worker-extension-cls",  # the kernels that engines on a CPU need
    "--lora-modules",  # adapters that nobody has checked, beside those of AdapterDeployments
    "--api-key",  # the gateway asks for keys; it has none for the engine
    "--ssl-keyfile",  # the gateway speaks plain HTTP on the socket
    "--ssl-certfile",
    "--config",  # a file with any of these
)
"""Flags of vLLM that operator and serving image set, or that would part the gateway from the engine."""

_NAMES = "|".join(flag.removeprefix("--").replace("-", "[-_]") for flag in OWN_FLAGS)
OWN_ARGUMENT = f"^(-tp|--(no[-_])?({_NAMES}))([=.]|$)"
"""What the chart's schema refuses: these flags with - or _, alone, with =value or .key of JSON."""


def _not_ours(argument: str) -> str:
    found = re.match(OWN_ARGUMENT, argument)
    if found is not None:
        flag = found.group(1)
        raise ValueError(f"{flag} is set by the operator, for each server from its ModelServer; remove it")
    if (flag := _abbreviated(argument)) is not None:
        given = argument.partition("=")[0]
        raise ValueError(
            f"{given} is the beginning of {flag}, which is set by the operator, for each server from its "
            "ModelServer; remove it, or write the flag that is meant in full"
        )
    return argument


def _abbreviated(argument: str) -> str | None:
    """The flag of ours that an argument is the beginning of: vLLM takes one that it can be no other of, and
    refuses one that it can be several of.
    """
    given = re.split("[=.]", argument)[0].replace("_", "-")
    if not given.startswith("--") or given == "--":
        return None
    name = "--" + given[2:].removeprefix("no-")
    return next((flag for flag in OWN_FLAGS if flag.startswith(name)), None)


Argument = Annotated[str, StringConstraints(max_length=1024), AfterValidator(_not_ours)]
Arguments = Annotated[tuple[Argument, ...], Field(max_length=64)]


class EngineProfile(BaseModel):
    """What the engines of a ModelServer get that names it: vLLM's arguments, and environment variables."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)

    args: Arguments = ()
    env: Environment = Field(default_factory=dict)
