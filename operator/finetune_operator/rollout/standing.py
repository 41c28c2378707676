"""Where an AdapterDeployment stands, from its resolution and its server's report."""

from __future__ import annotations

from dataclasses import dataclass, replace

from finetune_operator.api.adapterdeployment import AdapterDeployment
from finetune_operator.api.modelserver import ModelServer
from finetune_operator.api.modelserverstatus import AdapterState
from finetune_operator.api.rollout import RolloutProgress
from finetune_operator.rollout.observed import Observed
from finetune_operator.rollout.resolve import Resolution

WAITING = frozenset(
    {
        "WaitingForFineTuneJob",
        "ServerNotFound",
        "ServerNotReady",
        "Rolling",
        "WaitingForSlot",
        "NotResolved",
        "WaitingForTurn",
        "WriteFailed",
        "Holding",
        "WaitingForRequests",
        "Inconclusive",
    }
)
AS_ASKED = frozenset({"Stopped", "Paused"})


@dataclass(frozen=True)
class Standing:
    """`serving` is the version that answers now, also while a newer one rolls or was refused.

    `ready` None: the server has no room to tell.
    """

    ready: bool | None
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
        return self.ready is False and not self.moving and self.reason not in AS_ASKED


def standing(observed: Observed, resolution: Resolution) -> Standing:
    """Combine both sides; a problem before the server is told before a problem on it."""
    deployment, server = observed.deployment, observed.server
    entry = _entry(deployment, server)
    serving = entry.serving_version if entry is not None else None
    if observed.refusal is not None:
        return Standing(False, serving, observed.refusal.reason, observed.refusal.message)
    if observed.unreadable is not None:
        return Standing(False, _last_serving(deployment), "Unreadable", observed.unreadable)
    if server is None:
        name = deployment.spec.server_ref.name
        return Standing(False, None, "ServerNotFound", f"ModelServer {name} does not exist; create it.")
    if not resolution.current:
        return _kept(Standing(False, serving, resolution.reason, resolution.message))
    return _on_server(deployment, resolution, server, entry)


def _on_server(
    deployment: AdapterDeployment, resolution: Resolution, server: ModelServer, entry: AdapterState | None
) -> Standing:
    version = resolution.target.version if resolution.target is not None else ""
    if entry is None or entry.version != version:
        return _unreported(deployment, server, entry)
    serving, reason, message = entry.serving_version, entry.reason or entry.state, entry.message or ""
    if entry.state == "Serving":
        said = f"Every ready replica answers {deployment.spec.alias} with {version}."
        return Standing(True, serving, "Serving", said + _taken_back(deployment, version))
    if entry.state == "Failed":
        return _kept(Standing(False, serving, reason, message))
    return Standing(False, serving, reason, message + _trouble(server))


def progress(observed: Observed, resolution: Resolution) -> RolloutProgress | None:
    """How far the server is with the rollout by steps of what is resolved, None where there is none."""
    server, target = observed.server, resolution.target
    if server is None or target is None:
        return observed.deployment.status.rollout if observed.unreadable else None
    name = observed.deployment.metadata.name
    found = (record for record in server.status.rollouts if record.deployment == name)
    record = next((record for record in found if record.to_version == target.version), None)
    return None if record is None else RolloutProgress.model_validate(record.to_dict())


def alias_conflict(observed: Observed) -> bool | None:
    """Whether another AdapterDeployment has the alias, or had it; what the server does not tell stays."""
    entry = _entry(observed.deployment, observed.server)
    if entry is None:
        return observed.deployment.status.alias_conflict
    return True if entry.reason == "AliasConflict" else None


def _unreported(deployment: AdapterDeployment, server: ModelServer, entry: AdapterState | None) -> Standing:
    name = server.metadata.name
    if entry is None and server.status.adapters_left_out:
        message = (
            f"ModelServer {name} has more AdapterDeployments than its status has room for, and this one is "
            "left out; move some to another ModelServer."
        )
        return Standing(None, _last_serving(deployment), "NotReported", message)
    serving = entry.serving_version if entry is not None else None
    return Standing(False, serving, "Rolling", f"Waiting for ModelServer {name}." + _trouble(server))


def _entry(deployment: AdapterDeployment, server: ModelServer | None) -> AdapterState | None:
    """What the server says of it, and not of a deleted one of its name that had another alias."""
    asked = (deployment.metadata.name, deployment.spec.alias)
    adapters = server.status.adapters if server is not None else ()
    return next((one for one in adapters if (one.deployment, one.alias) == asked), None)


def _last_serving(deployment: AdapterDeployment) -> str | None:
    return deployment.status.serving.version if deployment.status.serving is not None else None


def _kept(standing: Standing) -> Standing:
    """With the version that goes on answering."""
    if standing.serving is None:
        return standing
    return replace(standing, message=f"{standing.message} {standing.serving} keeps answering.")


def _taken_back(deployment: AdapterDeployment, version: str) -> str:
    """A replica checks the gate when it loads a version, not again afterwards."""
    serving = deployment.status.serving
    if serving is None or serving.version != version or not serving.allow_unpromoted:
        return ""
    if deployment.spec.allow_unpromoted:
        return ""
    return (
        " It was taken into service with spec.allowUnpromoted: replicas that start from now on refuse it "
        "unless its evaluation gate promoted it."
    )


def _trouble(server: ModelServer) -> str:
    """What keeps the server itself from being ready: it is what the rollout waits for."""
    ready = server.status.condition("Ready")
    if ready is None or ready.status != "False":
        return ""
    return f" ModelServer {server.metadata.name} is not ready: {ready.message}"
