"""What serving pods do: an agent that follows the server manifest and answers /state with the real model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from aiohttp import web

from finetune_operator.core.manifests import items, text
from finetune_serving.documents import AliasState, BaseState, State, TargetState, VersionState
from tests.faults.cluster.client import Object
from tests.faults.cluster.nodes import Fate, PlayedPod

PORT = 8001


@dataclass(frozen=True)
class Adapters:
    """Digests of those that pods refuse, and of those of which every second request fails."""

    refused: Collection[str] = ()
    failing: Collection[str] = ()


def serve(adapters: Adapters) -> Fate:
    """A pod that becomes ready with the first manifest; while versions share an alias they are called."""

    async def fate(pod: PlayedPod) -> None:
        answered: Counter[str] = Counter()
        server = web.Server(lambda _: _answer(pod, adapters, answered), access_log=None)
        runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, pod.address, PORT).start()
            await pod.history.until(lambda: mounted_manifest(pod) is not None)
            await pod.run()
            await pod.deletion.wait()
        finally:
            await runner.cleanup()

    return fate


async def _answer(pod: PlayedPod, adapters: Adapters, answered: Counter[str]) -> web.Response:
    manifest = mounted_manifest(pod) or {}
    answered.update(_called(manifest))
    return web.json_response(
        text=state(manifest, pod.name, adapters, answered).model_dump_json(by_alias=True)
    )


def _called(manifest: Object) -> dict[str, int]:
    """Requests since the last answer to each version that shares an alias."""
    shared = (route["targets"] for route in manifest.get("routes", ()) if len(route["targets"]) > 1)
    return {target["version"]: 10 * target["weight"] for targets in shared for target in targets}


def state(manifest: Object, engine: str, adapters: Adapters, answered: Mapping[str, int]) -> State:
    """What an agent says that has carried out a server manifest; loading takes it no time."""
    versions = tuple(_version(listed, adapters, answered) for listed in manifest.get("versions", ()))
    generation = manifest.get("generation", 0)
    return State(
        generation=generation,
        applied_generation=generation,
        process_id=f"{engine}-gateway",
        engine_id=engine,
        ready=bool(manifest),
        base=BaseState(name=manifest.get("base", {}).get("name", ""), fingerprint=None),
        versions=versions,
        aliases=tuple(_alias(route) for route in manifest.get("routes", ())),
    )


def _alias(route: Object) -> AliasState:
    targets = tuple(TargetState(version=t["version"], weight=t["weight"]) for t in route["targets"])
    return AliasState(alias=route["alias"], targets=targets, answers=True)


def _version(listed: Object, adapters: Adapters, answered: Mapping[str, int]) -> VersionState:
    name, digest = listed["name"], listed["digest"]
    if digest in adapters.refused:
        refusal = {"phase": "Failed", "reason": "InvalidArtifact", "message": "Refused."}
        return VersionState.model_validate({"name": name, "digest": digest, **refusal})
    requests = answered.get(name, 0)
    failures = requests // 2 if digest in adapters.failing else 0
    return VersionState(name=name, digest=digest, phase="Ready", requests=requests, failures=failures)


def mounted_manifest(pod: PlayedPod) -> Object | None:
    """The server manifest in the ConfigMap that the pod mounts, as it is now: a kubelet that is never late."""
    names = [text(v, "configMap", "name") for v in items(pod.manifest, "spec", "volumes")]
    for configmap in (pod.history.objects.get(("ConfigMap", name)) for name in names if name):
        document = text(configmap, "data", "manifest.json")
        if document:
            found: Object = json.loads(document)
            return found
    return None
