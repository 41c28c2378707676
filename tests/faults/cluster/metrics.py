"""A stand-in for custom.metrics.k8s.io: the load of a server, shared by its pods as a Service shares it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from aiohttp import web

from dev.cluster.pki import Pki
from finetune_operator.core.manifests import mapping, name_of
from tests.faults.cluster.client import Client, Object
from tests.faults.cluster.history import History

GROUP, VERSION = "custom.metrics.k8s.io", "v1beta2"
_PATH = f"/apis/{GROUP}/{VERSION}"


class Load:
    """`total` is the sum of `metric` over the pods of a namespace that a selector of labels finds."""

    def __init__(self, history: History, namespace: str, metric: str):
        self.total = 0
        self._history = history
        self._namespace = namespace
        self._metric = metric

    def application(self) -> web.Application:
        """What the API server finds behind the APIService: discovery, and the metric of pods."""
        app = web.Application()
        app.router.add_get(_PATH, self._resources)
        app.router.add_get(f"{_PATH}/namespaces/{self._namespace}/pods/*/{self._metric}", self._values)
        return app

    async def _resources(self, _: web.Request) -> web.Response:
        metric = {"name": f"pods/{self._metric}", "singularName": "", "namespaced": True}
        resources = [{**metric, "kind": "MetricValueList", "verbs": ["get"]}]
        head = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{GROUP}/{VERSION}"}
        return web.json_response({**head, "resources": resources})

    async def _values(self, request: web.Request) -> web.Response:
        wanted = dict(pair.split("=") for pair in request.query["labelSelector"].split(","))
        pods = [pod for pod in self._history.of("Pod") if wanted.items() <= _labels(pod).items()]
        share = self.total // max(len(pods), 1)
        values = [self._value(pod, share) for pod in pods]
        head = {"kind": "MetricValueList", "apiVersion": f"{GROUP}/{VERSION}", "metadata": {}}
        return web.json_response({**head, "items": values})

    def _value(self, pod: Object, value: int) -> Object:
        described = {"kind": "Pod", "apiVersion": "/v1", "namespace": self._namespace, "name": name_of(pod)}
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        metric = {"name": self._metric, "selector": None}
        return {"describedObject": described, "metric": metric, "timestamp": now, "value": str(value)}


@asynccontextmanager
async def served(load: Load, client: Client, pki: Pki, namespace: str) -> AsyncIterator[None]:
    """The load behind an APIService of the API server, by a Service that names this machine."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pki.certificate("apiserver"), pki.key("apiserver"))
    runner = web.AppRunner(load.application(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "localhost", 0, ssl_context=context)
    await site.start()
    port = runner.addresses[0][1]
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "metrics"}}
    await client.create({**service, "spec": {"type": "ExternalName", "externalName": "localhost"}}, namespace)
    api = _api_service(namespace, port)
    await client.create(api)
    try:
        yield
    finally:  # a group that nobody serves would hold up the clean-up of every namespace
        await client.delete("APIService", None, name_of(api))
        await runner.cleanup()


def _api_service(namespace: str, port: int) -> Object:
    spec = {"group": GROUP, "version": VERSION, "groupPriorityMinimum": 100, "versionPriority": 100}
    place = {"namespace": namespace, "name": "metrics", "port": port}
    return {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": f"{VERSION}.{GROUP}"},
        "spec": {**spec, "insecureSkipTLSVerify": True, "service": place},
    }


def _labels(pod: Object) -> Object:
    return dict(mapping(pod, "metadata", "labels"))
