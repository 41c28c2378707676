"""Where an AdapterDeployment stands, from its resolution and its server's report."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_operator.api.adapterdeployment import AdapterDeployment
from finetune_operator.api.modelserver import AdapterState, ModelServer
from finetune_operator.rollout.resolve import Resolution

WAITING = frozenset({"WaitingForFineTuneJob", "ServerNotFound", "ServerStarting", "Rolling", "NotResolved"})


@dataclass(frozen=True)
class Standing:
    """`serving` is the version that answers now, also while a newer one rolls or was refused."""

    ready: bool
    loaded: bool
    serving: str | None
    reason: str
    message: str

    @property
    def moving(self) -> bool:
        """Not there yet, and nobody needs to act."""
        return not self.ready and self.reason in WAITING

    @property
    def stalled(self) -> bool:
        """Not there, and it will not get there without a change."""
        return not self.ready and not self.moving


def standing(deployment: AdapterDeployment, resolution: Resolution, server: ModelServer | None) -> Standing:
    """Combine both sides; a problem before the server is told before a problem on it."""
    if server is None:
        name = deployment.spec.server_ref.name
        return Standing(
            False, False, None, "ServerNotFound", f"ModelServer {name} does not exist; create it."
        )
    entry = _entry(deployment, server)
    serving = entry.serving_version if entry is not None else None
    if not resolution.current:
        return Standing(False, False, serving, resolution.reason, resolution.message + _kept(serving))
    assert resolution.target is not None
    version = resolution.target["version"]
    if entry is None or entry.version != version:
        waits = f"Waiting for ModelServer {server.metadata.name}."
        return Standing(False, False, serving, "Rolling", waits + _trouble(server))
    if entry.state == "Serving":
        return Standing(True, True, serving, "Serving", entry.message)
    if entry.state == "Failed":
        return Standing(False, False, serving, entry.reason, entry.message + _kept(serving))
    return Standing(False, False, serving, "Rolling", entry.message + _trouble(server))


def _entry(deployment: AdapterDeployment, server: ModelServer) -> AdapterState | None:
    return next((a for a in server.status.adapters if a.deployment == deployment.metadata.name), None)


def _kept(serving: str | None) -> str:
    return f" {serving} keeps answering." if serving else ""


def _trouble(server: ModelServer) -> str:
    """What keeps the server itself from being ready: it is what the rollout waits for."""
    ready = next((c for c in server.status.conditions if c.type == "Ready"), None)
    if ready is None or ready.status != "False":
        return ""
    return f" ModelServer {server.metadata.name} is not ready: {ready.message}"
