"""Which version each alias should serve, and what the server refuses before any pod sees it."""

from __future__ import annotations

from collections.abc import Sequence

from finetune_operator.api.adapterdeployment import AdapterDeployment
from finetune_operator.api.modelserver import ModelServer
from finetune_operator.core.sources import parse_source
from finetune_operator.serving.pod import base_name, store_claim
from finetune_operator.serving.routing import Wanted


def wanted_versions(server: ModelServer, deployments: Sequence[AdapterDeployment]) -> list[Wanted]:
    """One entry per AdapterDeployment, oldest first: the older of two with one alias wins."""
    taken: dict[str, str] = {}
    wanted: list[Wanted] = []
    for deployment in sorted(deployments, key=_age):
        if deployment.metadata.deletion_timestamp is not None:
            continue
        refusal = _conflict(server, deployment, taken) or _outside_store(server, deployment)
        taken.setdefault(deployment.spec.alias, deployment.metadata.name)
        wanted.append(_wanted(deployment, refusal))
    return wanted


def _age(deployment: AdapterDeployment) -> tuple[str, str]:
    return str(deployment.metadata.creation_timestamp), deployment.metadata.name


def _wanted(deployment: AdapterDeployment, refusal: tuple[str, str] | None) -> Wanted:
    name, alias = deployment.metadata.name, deployment.spec.alias
    resolved = deployment.status.resolved
    if resolved is None:
        return Wanted(alias, name, refusal=refusal)
    return Wanted(
        alias,
        name,
        resolved.version,
        resolved.source,
        resolved.digest,
        bool(resolved.allow_unpromoted),
        refusal,
    )


def _conflict(
    server: ModelServer, deployment: AdapterDeployment, taken: dict[str, str]
) -> tuple[str, str] | None:
    alias = deployment.spec.alias
    if alias == base_name(server):
        return "AliasConflict", f"{alias} is the name of the server's base model; choose another alias."
    if alias in taken:
        return (
            "AliasConflict",
            f"{alias} is already served by AdapterDeployment {taken[alias]}, which is older.",
        )
    return None


def _outside_store(server: ModelServer, deployment: AdapterDeployment) -> tuple[str, str] | None:
    resolved = deployment.status.resolved
    if resolved is None or parse_source(resolved.source).claim == store_claim(server):
        return None
    store = server.spec.artifact_store
    return (
        "OutsideStore",
        f"{resolved.source} is not in the server's artifact store {store}; publish it there.",
    )
