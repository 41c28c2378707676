"""The table behind the server manifest: read from its ConfigMap, written to it, rebuilt when it is lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError

from finetune_operator.contracts.digests import digest_of
from finetune_operator.contracts.server_manifest import (
    ManifestBase,
    ManifestCandidate,
    ManifestRoute,
    ManifestTarget,
    ManifestVersion,
    ServerManifest,
)
from finetune_operator.core.actions import Manifest
from finetune_operator.core.manifests import text
from finetune_operator.serving.children import DOCUMENT, intent_of
from finetune_operator.serving.observed import Observed, PodState
from finetune_operator.serving.wanted import Trial, Wanted


@dataclass(frozen=True)
class Table:
    """The decided part of the server manifest: versions by name, and the route of each alias.

    `rebuilt`: its ConfigMap was lost or edited, and it is what pods and statuses hold.
    """

    generation: int = 0
    versions: Mapping[str, ManifestVersion] = field(default_factory=dict)
    routes: Mapping[str, ManifestRoute] = field(default_factory=dict)
    rebuilt: bool = False


def whole_route(alias: str, version: str) -> ManifestRoute:
    """The route of an alias that one version answers."""
    return ManifestRoute(alias=alias, targets=(ManifestTarget(version=version, weight=100),))


def write_table(table: Table, base: ManifestBase, candidate: Trial | None = None) -> ServerManifest:
    """The server manifest; the candidate may be asked once it is in the table."""
    routes = tuple(table.routes[alias] for alias in sorted(table.routes))
    versions = tuple(table.versions[name] for name in sorted(table.versions))
    held = candidate is not None and candidate.version.name in table.versions
    candidates = (
        (ManifestCandidate(version=candidate.version.name, key=candidate.key),) if candidate and held else ()
    )
    return ServerManifest(
        generation=table.generation, base=base, versions=versions, routes=routes, candidates=candidates
    )


def current_table(observed: Observed, wanted: Sequence[Wanted]) -> Table:
    """The table in force: the ConfigMap's, or, where that is lost or was edited, what pods and status hold.

    A rebuilt table has a generation that no pod has seen: two tables of one generation would look alike.
    """
    newest = _newest_generation(observed)
    table = read_table(observed.manifest) if observed.owns(observed.manifest) else None
    if table is not None and table.generation >= newest:
        return table
    if newest == 0:
        return Table()
    served = dict(_served(observed, wanted))
    versions = {version.name: version for version in served.values()}
    routes = {alias: whole_route(alias, version.name) for alias, version in served.items()}
    return Table(newest + 1, versions, routes, rebuilt=True)


def read_table(configmap: Manifest | None) -> Table | None:
    """The table of a ConfigMap that still is as the operator wrote it; None of any other."""
    content = text(configmap, "data", DOCUMENT)
    if configmap is None or digest_of({"data": {DOCUMENT: content}}) != intent_of(configmap):
        return None
    try:
        document = ServerManifest.model_validate_json(content)
    except ValidationError:
        return None
    versions = {version.name: version for version in document.versions}
    routes = {route.alias: route for route in document.routes}
    return Table(document.generation, versions, routes)


def _newest_generation(observed: Observed) -> int:
    told = observed.server.status.manifest_generation or 0
    return max([told, *(pod.generation for pod in observed.pods)])


def _served(observed: Observed, wanted: Sequence[Wanted]) -> Iterator[tuple[str, ManifestVersion]]:
    """For each alias the version that answers, as far as statuses and pods tell."""
    reported = {entry.deployment: entry.serving_version for entry in observed.server.status.adapters}
    pods = [pod for pod in observed.live if pod.state is not None]
    for want in wanted:
        if not want.keeps_route:
            continue
        names = _candidates(want, reported.get(want.deployment), pods)
        known = (_described(want, name, pods, observed.server.spec.artifact_store) for name in names)
        found = next((version for version in known if version is not None), None)
        if found is not None:
            yield want.alias, found


def _candidates(want: Wanted, reported: str | None, pods: Sequence[PodState]) -> list[str]:
    """Versions that may be the one that answers, the likeliest first: what pods hold, else what was told."""
    told = [name for name in (reported, want.served.name if want.served else None) if name is not None]
    held = [
        name
        for pod in sorted(pods, key=lambda pod: not pod.ready)
        for name in pod.versions
        if alias_of(name) == want.alias and pod.phase(name) == "Ready"
    ]
    return [name for name in (*told, want.version, *held) if name in held] or told


def _described(want: Wanted, name: str, pods: Sequence[PodState], store: str) -> ManifestVersion | None:
    """The manifest's entry of a version; a pod that holds it has its digest, and asks for no source."""
    for known in (want.target, want.served):
        if known is not None and known.name == name:
            return known
    digest = next((text(pod.version(name), "digest") for pod in pods if pod.phase(name)), "")
    try:
        return ManifestVersion(name=name, source=store, digest=digest)
    except ValidationError:
        return None


def alias_of(version: str) -> str:
    """The alias of a version's name (`<alias>--<digest>`)."""
    return version.rpartition("--")[0]
