"""What serving pods do: an agent that follows the server manifest and answers /state with the real model."""

from __future__ import annotations

import json
from collections.abc import Collection

from aiohttp import web

from finetune_operator.core.manifests import items, text
from finetune_serving.documents import BaseState, State, VersionState
from tests.faults.cluster.client import Object
from tests.faults.cluster.nodes import Fate, PlayedPod

PORT = 8001


def serve(refused: Collection[str] = ()) -> Fate:
    """A pod that becomes ready with the first manifest; it refuses the adapters with these digests."""

    async def fate(pod: PlayedPod) -> None:
        server = web.Server(lambda _: _answer(pod, refused), access_log=None)
        runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, pod.address, PORT).start()
            await pod.history.until(lambda: _manifest(pod) is not None)
            await pod.run()
            await pod.deletion.wait()
        finally:
            await runner.cleanup()

    return fate


async def _answer(pod: PlayedPod, refused: Collection[str]) -> web.Response:
    text = state(_manifest(pod) or {}, pod.name, refused).model_dump_json(by_alias=True)
    return web.Response(text=text, content_type="application/json")


def state(manifest: Object, engine: str, refused: Collection[str]) -> State:
    """What an agent says that has carried out a server manifest; loading takes it no time."""
    versions = tuple(
        VersionState(
            name=v["name"], digest=v["digest"], phase="Failed", reason="InvalidArtifact", message="Refused."
        )
        if v["digest"] in refused
        else VersionState(name=v["name"], digest=v["digest"], phase="Ready")
        for v in manifest.get("versions", ())
    )
    generation = manifest.get("generation", 0)
    return State(
        generation=generation,
        applied_generation=generation,
        engine_id=engine,
        ready=bool(manifest),
        base=BaseState(name=manifest.get("base", {}).get("name", ""), fingerprint=None),
        versions=versions,
    )


def _manifest(pod: PlayedPod) -> Object | None:
    """The server manifest in the ConfigMap that the pod mounts, as it is now: a kubelet that is never late."""
    names = [text(v, "configMap", "name") for v in items(pod.manifest, "spec", "volumes")]
    for configmap in (pod.history.objects.get(("ConfigMap", name)) for name in names if name):
        document = text(configmap, "data", "manifest.json")
        if document:
            found: Object = json.loads(document)
            return found
    return None
