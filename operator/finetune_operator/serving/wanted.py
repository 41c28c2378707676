"""Which version each alias should serve, and what the server refuses before any pod sees it."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from pydantic import ValidationError

from finetune_operator.api.adapterdeployment import AdapterDeployment
from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.modelserver import ModelServer
from finetune_operator.api.rollout import Rollout, RolloutRecord
from finetune_operator.contracts.server_manifest import ManifestVersion
from finetune_operator.core.sources import SourceError, parse_source
from finetune_operator.serving.observed import Observed, Unreadable

_WITHOUT_ALIAS = frozenset({"AliasConflict", "AliasOfBaseModel", "BaseOnly", "Unreadable"})
"""Reasons of the server for which an AdapterDeployment has no alias, or may have none."""
Holders: TypeAlias = Mapping[str, str]
"""The AdapterDeployment that has an alias, by alias."""


@dataclass(frozen=True)
class Rejection:
    """Why a version is kept off the server. `keeps_route`: the version that answers until now goes on."""

    reason: str
    message: str
    keeps_route: bool = True


@dataclass(frozen=True)
class Wanted:
    """One AdapterDeployment's request: an alias, and the version it asks for (None while not resolved).

    `served` is the version that its status says answers now or answered last, where that is known completely.
    `generation` is that of the spec which the request stands for, `rollout` how a new version comes, and
    `record` how far it is (steps.py). `current`: the spec, as it is now, asks for `target`; otherwise what
    it asks for is not looked at yet, or not available, and the target is an earlier one; `awaited` says what
    is missing.
    """

    alias: str
    deployment: str
    target: ManifestVersion | None = None
    rejection: Rejection | None = None
    served: ManifestVersion | None = None
    generation: int = 0
    rollout: Rollout | None = None
    record: RolloutRecord | None = None
    current: bool = True
    awaited: str | None = None

    @property
    def version(self) -> str | None:
        """The name of the version that is asked for."""
        return self.target.name if self.target is not None else None

    @property
    def loadable(self) -> bool:
        """Whether pods should load the version."""
        return self.target is not None and self.rejection is None

    @property
    def keeps_route(self) -> bool:
        """Whether the alias is this AdapterDeployment's."""
        return self.rejection is None or self.rejection.keeps_route


@dataclass(frozen=True)
class Trial:
    """A run that scores here: it wants its candidate held without an alias, for the holder of `key`."""

    run: str
    version: ManifestVersion
    key: str | None


def trials(observed: Observed, held: Container[str]) -> tuple[Trial, ...]:
    """The runs that score here in their turn: the one whose candidate is among those `held`, then by age.

    A run wants it for as long as its status says, and a run that is gone wants nothing.
    """
    asked = [(job, trial) for job in observed.runs if (trial := _trial(observed.server, job)) is not None]
    asked.sort(
        key=lambda one: (one[1].version.name not in held, str(one[0].metadata.creation_timestamp), one[1].run)
    )
    return tuple(trial for _, trial in asked)


def _trial(server: ModelServer, job: FineTuneJob) -> Trial | None:
    asked = job.status.candidate
    if asked is None or asked.server != server.metadata.name or job.metadata.deletion_timestamp is not None:
        return None
    version = _entry(asked.version, asked.source, asked.digest, allow_unpromoted=True)
    key = asked.key if server.spec.api_keys is not None else None
    return None if version is None else Trial(job.metadata.name, version, key)


def wanted_versions(observed: Observed) -> tuple[Wanted, ...]:
    """One entry per AdapterDeployment, oldest first: the older of two with one alias has it.

    The younger one does not inherit it: whoever deletes an object to create it anew would lose the alias to
    one that happened to wait.
    """
    staying = [one for one in observed.deployments if one.metadata.deletion_timestamp is None]
    askers: list[AdapterDeployment | Unreadable] = [*staying, *observed.unreadable]
    holders = _holders(observed.server, askers)
    taken: dict[str, str] = {}
    wanted: list[Wanted] = []
    for one in sorted(askers, key=_age):
        if isinstance(one, Unreadable):
            unreadable = Rejection("Unreadable", one.message, keeps_route=one.alias not in taken)
            request = Wanted(one.alias, one.name, rejection=unreadable)
        else:
            request = _wanted(observed.server, one, taken, holders)
        if request.keeps_route:
            taken.setdefault(request.alias, request.deployment)
        wanted.append(request)
    return tuple(wanted)


def _age(one: AdapterDeployment | Unreadable) -> tuple[str, str]:
    if isinstance(one, Unreadable):
        return one.created, one.name
    return str(one.metadata.creation_timestamp), one.metadata.name


def _name(one: AdapterDeployment | Unreadable) -> str:
    return one.name if isinstance(one, Unreadable) else one.metadata.name


def _holders(server: ModelServer, askers: Sequence[AdapterDeployment | Unreadable]) -> Holders:
    """Who has each alias by what the server told last. One that is gone keeps it from nobody, so that an
    object may be replaced by one of another name in a single step.
    """
    there = set(map(_name, askers))
    told = (one for one in server.status.adapters if one.reason not in _WITHOUT_ALIAS)
    return {one.alias: one.deployment for one in told if one.deployment in there}


def _wanted(
    server: ModelServer, deployment: AdapterDeployment, taken: Mapping[str, str], holders: Holders
) -> Wanted:
    looked_at = deployment.status.observed_generation == deployment.metadata.generation
    resolved = deployment.status.condition("Resolved")
    rejection = (
        _conflict(server, deployment, taken, holders)
        or _base_only(server)
        or _outside_store(server, deployment)
    )
    return Wanted(
        alias=deployment.spec.alias,
        deployment=deployment.metadata.name,
        target=_target(deployment),
        rejection=rejection,
        served=_served(server, deployment),
        generation=deployment.status.observed_generation or 0,
        rollout=deployment.spec.rollout,
        current=looked_at and resolved is not None and resolved.status == "True",
        awaited=resolved.message if resolved is not None and resolved.status == "False" else None,
    )


def _target(deployment: AdapterDeployment) -> ManifestVersion | None:
    resolved = deployment.status.resolved
    if resolved is None:
        return None
    return _entry(resolved.version, resolved.source, resolved.digest, resolved.allow_unpromoted)


def _served(server: ModelServer, deployment: AdapterDeployment) -> ManifestVersion | None:
    """What answers, or answered last. Before sources were recorded, the store stands for the source: pods
    that hold the version keep it.
    """
    serving = deployment.status.serving or deployment.status.last_served
    if serving is None or serving.digest is None:
        return None
    source = serving.source or server.spec.artifact_store
    return _entry(serving.version, source, serving.digest, bool(serving.allow_unpromoted))


def _entry(name: str, source: str, digest: str, allow_unpromoted: bool) -> ManifestVersion | None:
    try:
        return ManifestVersion(name=name, source=source, digest=digest, allow_unpromoted=allow_unpromoted)
    except ValidationError:  # a status that somebody else wrote
        return None


def _conflict(
    server: ModelServer, deployment: AdapterDeployment, taken: Mapping[str, str], holders: Holders
) -> Rejection | None:
    alias = deployment.spec.alias
    if alias == server.spec.base_name:
        message = f"{alias} is the name of the server's base model; create the object with another alias."
        return Rejection("AliasOfBaseModel", message, keeps_route=False)
    if alias in taken:
        message = f"{alias} is already served by AdapterDeployment {taken[alias]}, which is older."
        return Rejection("AliasConflict", message, keeps_route=False)
    if _was_anothers(server, deployment, holders) and not deployment.spec.take_over_alias:
        message = (
            f"{alias} was served by another AdapterDeployment when this one asked for it; set "
            "spec.takeOverAlias to true to serve it from here, or delete this object."
        )
        return Rejection("AliasConflict", message, keeps_route=False)
    return None


def _was_anothers(server: ModelServer, deployment: AdapterDeployment, holders: Holders) -> bool:
    """Whether another one had the alias when this one asked: by its own status, or by the server's, which is
    written first.
    """
    asked = (deployment.metadata.name, deployment.spec.alias)
    refused = any(
        (one.deployment, one.alias) == asked and one.reason == "AliasConflict"
        for one in server.status.adapters
    )
    held = holders.get(deployment.spec.alias, deployment.metadata.name) != deployment.metadata.name
    return bool(deployment.status.alias_conflict) or refused or held


def _base_only(server: ModelServer) -> Rejection | None:
    if server.spec.max_loras:
        return None
    message = "The server has spec.maxLoras: 0 and serves its base model alone; raise it to serve adapters."
    return Rejection("BaseOnly", message, keeps_route=False)


def _outside_store(server: ModelServer, deployment: AdapterDeployment) -> Rejection | None:
    resolved = deployment.status.resolved
    if resolved is None:
        return None
    try:
        inside = parse_source(resolved.source).claim == server.spec.store_claim
    except SourceError as error:
        return Rejection("InvalidSource", str(error))
    store = server.spec.artifact_store
    message = f"{resolved.source} is not in the server's artifact store {store}; publish it there."
    return None if inside else Rejection("OutsideStore", message)
