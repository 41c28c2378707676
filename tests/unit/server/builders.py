"""A small world for the plan of a ModelServer: its children as stored, its pods, its status."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from finetune_operator.api.adapterdeployment import AdapterDeployment
from finetune_operator.api.conditions import Condition
from finetune_operator.api.modelserver import ModelServer
from finetune_operator.api.modelserverstatus import ModelServerStatus
from finetune_operator.contracts.server_manifest import ManifestVersion
from finetune_operator.contracts.settings import Settings
from finetune_operator.core.actions import Apply, Create, Delete, Manifest, Patch, Plan
from finetune_operator.serving.observed import Observed, PodState
from finetune_operator.serving.plan import plan
from finetune_operator.serving.wanted import Wanted

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
SETTINGS = Settings.model_validate({"images": {"trainer": "t", "serving": "serving:1"}})
NEWER = Settings.model_validate({"images": {"trainer": "t", "serving": "serving:2"}})
DIGEST = "sha256:" + "a" * 64
KINDS = {
    "Deployment": "deployment",
    "Service": "service",
    "NetworkPolicy": "policy",
    "PodDisruptionBudget": "budget",
    "ConfigMap": "manifest",
}


def server(
    status: Mapping[str, Any] | None = None, name: str = "shared", uid: str = "u1", **spec: Any
) -> ModelServer:
    body = {"baseModel": {"source": "pvc://models/smollm2"}, "artifactStore": "pvc://adapters"}
    meta = {"name": name, "namespace": "demo", "uid": uid, "generation": 1}
    return ModelServer.model_validate({"metadata": meta, "spec": {**body, **spec}, "status": status or {}})


def version(alias: str, digit: str = "a") -> str:
    return f"{alias}--{digit * 12}"


def adapter(
    name: str,
    alias: str | None = None,
    created: str = "t",
    source: str = "pvc://adapters/x",
    digit: str = "a",
    serving: Mapping[str, Any] | None = None,
    last_served: Mapping[str, Any] | None = None,
    generation: int = 1,
    alias_conflict: bool | None = None,
    available: bool = True,
    **more: Any,
) -> AdapterDeployment:
    """`available` False: the spec asks for something else by now, and what is resolved is from before."""
    alias, digest = alias or name, "sha256:" + digit * 64
    meta = {"name": name, "namespace": "demo", "uid": name, "creationTimestamp": created}
    told = {"type": "Resolved", "status": str(available), "reason": "Told", "message": "Why."}
    adapter = {"source": source, "digest": digest}
    spec = {"serverRef": {"name": "shared"}, "alias": alias, "adapter": adapter, **more}
    resolved = {"source": source, "digest": digest, "version": version(alias, digit)}
    status = {"resolved": resolved, "serving": serving, "observedGeneration": generation}
    status |= {"lastServed": last_served}
    status |= {"aliasConflict": alias_conflict, "conditions": [told]}
    return AdapterDeployment.model_validate(
        {"metadata": {**meta, "generation": generation}, "spec": spec, "status": status}
    )


def want(name: str | None, alias: str = "reviews", **more: Any) -> Wanted:
    return Wanted(alias, f"{alias}-deployment", entry(name) if name else None, **more)


def entry(name: str) -> ManifestVersion:
    return ManifestVersion(name=name, source="pvc://adapters/x", digest="sha256:" + name[-1] * 64)


def held(name: str, phase: str = "Ready", **more: Any) -> dict[str, Any]:
    return {"name": name, "digest": "sha256:" + name[-1] * 64, "phase": phase, "inFlight": 0, **more}


def pod(
    *versions: Mapping[str, Any] | str,
    name: str = "pod-1",
    applied: int = 0,
    ready: bool = True,
    terminating: bool = False,
    phase: str = "Running",
    **status: Any,
) -> PodState:
    """A pod whose agent says that it holds these versions; a name alone is a version that is Ready."""
    said = [held(one) if isinstance(one, str) else one for one in versions]
    state: dict[str, Any] = {"processId": name, "ready": ready, "versions": said, "candidates": []}
    state |= {"generation": applied, "appliedGeneration": applied}
    spec = {"nodeName": "node-1"}
    manifest = {"metadata": {"name": name}, "spec": spec, "status": {"phase": phase, **status}}
    return PodState(name, name, ready, terminating, manifest, state, NOW)


@dataclass
class World:
    """Reconciles as the operator does; `children` are the objects that the API server has, by kind, and
    `revisions` the ControllerRevisions by name.
    """

    spec: dict[str, Any] = field(default_factory=dict)
    settings: Settings = SETTINGS
    pods: tuple[PodState, ...] = ()
    deployments: tuple[AdapterDeployment, ...] = ()
    status: dict[str, Any] = field(default_factory=dict)
    children: dict[str, dict[str, Any]] = field(default_factory=dict)
    revisions: dict[str, dict[str, Any]] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    uid: str = "u1"
    name: str = "shared"

    @property
    def server(self) -> ModelServer:
        return server(self.status, self.name, self.uid, **self.spec)

    def observed(self) -> Observed:
        children = {field: self.children.get(kind) for kind, field in KINDS.items()}
        claims: Mapping[str, Manifest] = {"models": {}, "adapters": {}}
        kept = self.revisions.get((self.status.get("template") or {}).get("controllerRevision", ""))
        given = {"claims": claims, "revision": kept, "revisions": tuple(self.revisions.values()), **self.more}
        return Observed(self.server, pods=self.pods, deployments=self.deployments, **children, **given)

    def plan(self, now: datetime = NOW) -> Plan:
        return plan(self.observed(), self.settings, now)

    def reconcile(self, now: datetime = NOW) -> Plan:
        """Plan, carry out, write the status."""
        decided = self.plan(now)
        for kind, manifest in applied(decided).items():
            self.children[kind] = self._stored(manifest)
        self._keep_templates(decided)
        if decided.status is not None:
            self.status = copy.deepcopy(dict(decided.status))
        return decided

    def _keep_templates(self, decided: Plan) -> None:
        for action in decided.actions:
            if isinstance(action, Create):
                self.revisions.setdefault(action.manifest["metadata"]["name"], dict(action.manifest))
            elif isinstance(action, Delete):
                self.revisions.pop(action.name, None)

    @property
    def template(self) -> dict[str, Any]:
        """The pod template that is kept."""
        kept = self.revisions[self.status["template"]["controllerRevision"]]
        found: dict[str, Any] = kept["data"]["spec"]["template"]
        return found

    def settle(self) -> World:
        """Reconcile until nothing is left to do; the Deployment's controller finishes each rollout."""
        for _ in range(8):
            self.roll_out()
            before = copy.deepcopy(self.status)
            nudged = all(isinstance(action, Patch) for action in self.reconcile().actions)
            if nudged and self.status == before:
                return self
        raise AssertionError("it never comes to rest")

    def roll_out(self) -> None:
        """What the Deployment's controller says when every pod is of the newest template."""
        progress = {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}
        if "Deployment" in self.children:
            generation = self.children["Deployment"]["metadata"]["generation"]
            self.children["Deployment"]["status"] = {
                "observedGeneration": generation,
                "conditions": [progress],
            }

    def condition(self, kind: str) -> Condition:
        found = ModelServerStatus.model_validate(self.status).condition(kind)
        assert found is not None
        return found

    def adapters(self) -> dict[str, dict[str, Any]]:
        return {one["deployment"]: one for one in self.status["adapters"]}

    def _stored(self, manifest: Manifest) -> dict[str, Any]:
        body = copy.deepcopy(dict(manifest))
        before = self.children.get(manifest["kind"], {})
        old = before.get("metadata", {}).get("generation", 0)
        changed = before.get("spec") != body.get("spec")
        body["metadata"]["generation"] = old + 1 if changed else old
        return {**body, **({"status": before["status"]} if "status" in before else {})}


def serve(world: World, *versions: Mapping[str, Any] | str) -> None:
    """Reconcile until one pod that holds these versions follows the routes to them."""
    for _ in range(4):
        world.pods = (pod(*versions, applied=world.status.get("manifestGeneration", 0)),)
        world.reconcile()


def applied(decided: Plan) -> dict[str, Manifest]:
    return {a.manifest["kind"]: a.manifest for a in decided.actions if isinstance(a, Apply)}


def status_of(decided: Plan) -> ModelServerStatus:
    assert decided.status is not None
    return ModelServerStatus.model_validate(decided.status)
