"""The scenarios of ModelServer and AdapterDeployment."""

from __future__ import annotations

import copy
import json
from typing import Any

import yaml

from finetune_operator.core.manifests import condition, items, mapping, name_of, terminating, text
from tests.faults.cluster import agents, trainer
from tests.faults.cluster.client import Object
from tests.faults.scenarios.scenario import Scenario, World

SERVER: Object = yaml.safe_load("""
apiVersion: finetune.dev/v1alpha1
kind: ModelServer
metadata: {name: shared}
spec:
  baseModel: {source: "pvc://base-models/base"}
  artifactStore: "pvc://adapters"
""")
ADAPTER: Object = yaml.safe_load("""
apiVersion: finetune.dev/v1alpha1
kind: AdapterDeployment
metadata: {name: reviews}
spec:
  serverRef: {name: shared}
  alias: reviews
  adapter: {source: "pvc://adapters/reviews"}
""")
FIRST, SECOND, BAD, FAILING = ("sha256:" + letter * 64 for letter in "abcd")
CHILD = "shared-server"
EDITS: tuple[tuple[str, Object], ...] = (
    ("Deployment", {"replicas": 0}),
    ("Service", {"selector": {"app": "other"}}),
    ("NetworkPolicy", {"ingress": [{}]}),
)
SERVES = {"": (agents.serve(agents.Adapters(refused=(BAD,), failing=(FAILING,))),)}
BY_STEPS: Object = yaml.safe_load("""
steps: [{weight: 10, holdSeconds: 1}, {weight: 50, holdSeconds: 1}]
analysis: {maxErrorRate: "0.02", minRequests: 20}
""")
LONG_STEP: Object = {"steps": [{"weight": 10, "holdSeconds": 3600}]}


def adapter(digest: str = FIRST, name: str = "reviews") -> Object:
    """An AdapterDeployment of an artifact in the store."""
    manifest = copy.deepcopy(ADAPTER)
    manifest["metadata"]["name"] = manifest["spec"]["alias"] = name
    manifest["spec"]["adapter"]["digest"] = digest
    return manifest


async def serves(world: World) -> None:
    """A server and its first adapter."""
    await world.create(SERVER)
    await world.create(adapter())
    await _serving(world, FIRST)


async def rolls_and_rolls_back(world: World) -> None:
    """The second version takes the first one's place, and the first comes back."""
    await serves(world)
    await roll(world, SECOND)
    await roll(world, FIRST)


async def refuses_a_version(world: World) -> None:
    """The pods refuse the new version: the old one keeps answering, and the status says why."""
    await serves(world)
    await world.change("AdapterDeployment", "reviews", adapter={"digest": BAD})
    await world.until("AdapterDeployment", "reviews", "Ready", "False", "InvalidArtifact")


async def is_promoted_by_steps(world: World) -> None:
    """The second version takes the requests step by step, and the first one leaves."""
    await serves(world)
    await world.change("AdapterDeployment", "reviews", rollout=BY_STEPS)
    await roll(world, SECOND)
    await world.history.until(lambda: _rollout(world).get("phase") == "Complete")


async def rolls_back_by_itself(world: World) -> None:
    """Every second request to the new version fails: the old one gets them all, and the status says why."""
    await serves(world)
    await world.change("AdapterDeployment", "reviews", rollout=BY_STEPS, adapter={"digest": FAILING})
    await world.until("AdapterDeployment", "reviews", "Ready", "False", "RolledBack")
    await world.history.until(lambda: _routed(world) == [[FIRST]])


async def is_reverted_in_a_step(world: World) -> None:
    """The user takes the new version back while it has a share: the first one gets every request at once."""
    await serves(world)
    await world.change("AdapterDeployment", "reviews", rollout=LONG_STEP, adapter={"digest": SECOND})
    await world.history.until(lambda: _rollout(world).get("weight") == 10)
    await world.change("AdapterDeployment", "reviews", adapter={"digest": FIRST})
    await _serving(world, FIRST)
    await world.history.until(lambda: _routed(world) == [[FIRST]])


async def loses_an_adapter(world: World) -> None:
    """One of two AdapterDeployments is deleted."""
    await serves(world)
    await world.create(adapter(SECOND, "others"))
    await _serving(world, SECOND, "others")
    await world.delete("AdapterDeployment", "others")
    await world.history.until(lambda: _adapters(world) == ["reviews"])


async def changes_its_spec(world: World) -> None:
    """A change that replaces the pods, and one more replica."""
    await serves(world)
    await world.change("ModelServer", "shared", maxModelLength=2048, replicas=2)
    await _serving(world, FIRST, replicas=2)


async def is_deleted(world: World) -> None:
    """The server is deleted; its AdapterDeployment says so and waits."""
    await serves(world)
    await world.delete("ModelServer", "shared")
    await world.until_gone(
        "Deployment", "Service", "NetworkPolicy", "PodDisruptionBudget", "ConfigMap", "Pod"
    )
    await world.until("AdapterDeployment", "reviews", "Ready", "False", "ServerNotFound")


async def is_created_again(world: World) -> None:
    """A server of the same name right after the old one is deleted: it owns children of its own."""
    await serves(world)
    await world.delete("ModelServer", "shared", propagationPolicy="Background")
    await world.history.until(lambda: not world.get("ModelServer", "shared"))
    await world.create(SERVER)
    await _serving(world, FIRST)


async def loses_the_node_of_its_pod(world: World) -> None:
    """The pod's node dies: the pod stays Terminating for ever and another one takes over."""
    await serves(world)
    [pod] = world.history.of("Pod")
    await world.delete("Pod", pod["metadata"]["name"], gracePeriodSeconds=1)
    await _serving(world, FIRST, pods_left=2)


async def loses_its_manifest(world: World) -> None:
    """Somebody deletes the ConfigMap with the routes of an alias that answers."""
    await serves(world)
    [manifest] = [c for c in world.history.of("ConfigMap") if "manifest.json" in mapping(c, "data")]
    await world.delete("ConfigMap", manifest["metadata"]["name"])
    await world.history.until(lambda: _is_new(world, manifest))
    await _serving(world, FIRST)


async def is_edited(world: World) -> None:
    """Somebody edits each child of a server: all of it is put back."""
    await serves(world)
    for kind, edit in EDITS:
        before = world.get(kind, CHILD)["spec"]
        await world.client.patch(kind, world.namespace, CHILD, {"spec": edit})
        await world.history.until(lambda: world.get(kind, CHILD)["spec"] == before)  # noqa: B023
    await _serving(world, FIRST)


async def loses_its_children(world: World) -> None:
    """Somebody deletes each child of a server: all of it comes back."""
    await serves(world)
    [template] = world.history.of("ControllerRevision")
    names = [(kind, CHILD) for kind in ("Service", "NetworkPolicy", "PodDisruptionBudget", "Deployment")]
    for kind, name in [*names, ("ControllerRevision", name_of(template))]:
        before = world.get(kind, name)
        await world.delete(kind, name)
        await world.history.until(lambda: _is_new(world, before))  # noqa: B023
    await _serving(world, FIRST)


async def finds_its_name_taken(world: World) -> None:
    """A Service of somebody else has the name of ours: it stays as it is until its owner deletes it."""
    theirs = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": CHILD}}
    await world.create({**theirs, "spec": {"selector": {"app": "other"}, "ports": [{"port": 80}]}})
    await world.history.until(lambda: bool(world.get("Service", CHILD)))
    before = world.get("Service", CHILD)
    await world.create(SERVER)
    await world.create(adapter())
    await world.until("ModelServer", "shared", "Ready", "False", "NameConflict")
    assert world.get("Service", CHILD) == before, "another one's Service was changed"
    await world.delete("Service", CHILD)
    await _serving(world, FIRST)


async def waits_for_a_quota(world: World) -> None:
    """A ResourceQuota refuses the pods of a server; then the administrator takes it away."""
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}}
    await world.create({**quota, "spec": {"hard": {"pods": "0"}}})
    await world.history.until(lambda: bool(mapping(world.get("ResourceQuota", "none"), "status", "hard")))
    await world.create(SERVER)
    await world.create(adapter())
    await world.history.until(lambda: "exceeded quota" in _message(world))
    await world.delete("ResourceQuota", "none")
    await _serving(world, FIRST)


async def sleeps_and_wakes(world: World) -> None:
    """The server is scaled to nothing, so nobody answers, and back."""
    await serves(world)
    await world.change("ModelServer", "shared", replicas=0)
    await world.until("AdapterDeployment", "reviews", "Ready", "False")
    await world.history.until(lambda: not world.history.of("Pod"))
    await world.change("ModelServer", "shared", replicas=1)
    await _serving(world, FIRST)


def _rollout(world: World) -> Object:
    return dict(mapping(world.get("AdapterDeployment", "reviews"), "status", "rollout"))


def _routed(world: World) -> list[list[str]]:
    """The digests behind each alias once nothing else is listed."""
    [configmap] = [c for c in world.history.of("ConfigMap") if "manifest.json" in mapping(c, "data")]
    manifest = json.loads(configmap["data"]["manifest.json"])
    digests = {version["name"]: version["digest"] for version in manifest["versions"]}
    routes = [[digests[target["version"]] for target in route["targets"]] for route in manifest["routes"]]
    return routes if len(digests) == len(routes) else []


def _message(world: World) -> str:
    """What the server says of its readiness."""
    return text(condition(world.get("ModelServer", "shared"), "Ready"), "message")


async def roll(world: World, digest: str) -> None:
    """Change the version of the adapter and wait until it answers."""
    await world.change("AdapterDeployment", "reviews", adapter={"digest": digest})
    await _serving(world, digest)


async def _serving(
    world: World, digest: str, name: str = "reviews", replicas: int = 1, pods_left: int | None = None
) -> None:
    """Wait until the alias answers with this version, everywhere, and nothing older is left."""

    def holds() -> bool:
        server = world.get("ModelServer", "shared")
        found = [p for p in world.history.of("Pod") if not terminating(p)]
        return (
            world.stands("AdapterDeployment", name, "Ready", "True")
            and mapping(world.get("AdapterDeployment", name), "status", "serving").get("digest") == digest
            and world.stands("ModelServer", "shared", "Ready", "True")
            and mapping(server, "status").get("readyReplicas") == replicas == len(found)
            and len(world.history.of("Pod")) == (pods_left or replicas)
        )

    await world.history.until(holds)


def _adapters(world: World) -> list[Any]:
    return [entry["alias"] for entry in items(world.get("ModelServer", "shared"), "status", "adapters")]


def _is_new(world: World, manifest: Object) -> bool:
    now = world.get(manifest["kind"], manifest["metadata"]["name"])
    return bool(now) and now["metadata"]["uid"] != manifest["metadata"]["uid"]


SCENARIOS = (
    Scenario("a server serves its first adapter", serves, SERVES),
    Scenario("an adapter rolls and rolls back", rolls_and_rolls_back, SERVES),
    Scenario("a version is refused by the pods", refuses_a_version, SERVES),
    Scenario("a canary is promoted by steps", is_promoted_by_steps, SERVES),
    Scenario("a canary rolls back by itself", rolls_back_by_itself, SERVES),
    Scenario("a canary is taken back in a step", is_reverted_in_a_step, SERVES),
    Scenario("one of two adapters is deleted", loses_an_adapter, SERVES),
    Scenario("the server's spec changes", changes_its_spec, SERVES),
    Scenario("the server is deleted", is_deleted, SERVES),
    Scenario("the server is deleted and created again", is_created_again, SERVES),
    Scenario("the node of a serving pod dies", loses_the_node_of_its_pod, SERVES, dying=trainer.stay),
    Scenario("the manifest of a server is deleted", loses_its_manifest, SERVES),
    Scenario("the children of a server are edited", is_edited, SERVES),
    Scenario("the children of a server are deleted", loses_its_children, SERVES),
    Scenario("a quota refuses the pods of a server", waits_for_a_quota, SERVES),
    Scenario("a server is scaled to nothing and back", sleeps_and_wakes, SERVES),
    Scenario("a Service of somebody else has the name", finds_its_name_taken, SERVES),
)
