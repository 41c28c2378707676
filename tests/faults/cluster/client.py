"""The tests' own connection to the API server: asynchronous, errors as they come."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp

from finetune_operator.runtime import resources
from finetune_operator.runtime.resources import Resource

Object = dict[str, Any]
MERGE = "application/merge-patch+json"
NAMESPACE = Resource("v1", "Namespace", "namespaces")
NODE = Resource("v1", "Node", "nodes")
SECRET = Resource("v1", "Secret", "secrets")
QUOTA = Resource("v1", "ResourceQuota", "resourcequotas")
CRD = Resource("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions")
POLICY = Resource(
    "admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy", "validatingadmissionpolicies"
)
BINDING = Resource(
    "admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings"
)
API_SERVICE = Resource("apiregistration.k8s.io/v1", "APIService", "apiservices")
AUTOSCALER = Resource("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
_RBAC = "rbac.authorization.k8s.io/v1"
ROLES = tuple(
    Resource(_RBAC, kind, f"{kind.lower()}s")
    for kind in ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
)
_OTHERS = (*ROLES, NAMESPACE, NODE, SECRET, CRD, POLICY, BINDING, API_SERVICE, AUTOSCALER)
WATCHED = (
    *resources.OURS,
    resources.JOB,
    resources.POD,
    resources.DEPLOYMENT,
    resources.CONFIGMAP,
    resources.SERVICE,
    resources.CLAIM,
    resources.NETWORKPOLICY,
    resources.BUDGET,
    resources.REVISION,
    resources.EVENT,
    QUOTA,
)
BY_KIND = {resource.kind: resource for resource in (*WATCHED, *_OTHERS)}


class ApiServerError(Exception):
    """An answer other than 2xx."""

    def __init__(self, status: int, document: Object):
        super().__init__(f"{status}: {document.get('message')}")
        self.status = status


class Client:
    """Requests as the administrator. Use it within the event loop that made it."""

    def __init__(self, url: str, context: ssl.SSLContext):
        self.url = url
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
        )

    async def close(self) -> None:
        """Drop the connections."""
        await self.session.close()

    async def get(self, kind: str, namespace: str | None, name: str) -> Object | None:
        """One object, None when there is none."""
        try:
            return await self._send("GET", BY_KIND[kind].path(namespace, name))
        except ApiServerError as error:
            if error.status == 404:
                return None
            raise

    async def list(self, kind: str, namespace: str | None) -> tuple[list[Object], str]:
        """All objects of a kind and the resourceVersion to watch from."""
        found = await self._send("GET", BY_KIND[kind].path(namespace))
        head = {"apiVersion": BY_KIND[kind].api_version, "kind": kind}
        return [{**head, **item} for item in found["items"]], found["metadata"]["resourceVersion"]

    async def create(self, manifest: Object, namespace: str | None = None) -> Object:
        """Create an object."""
        return await self._send("POST", BY_KIND[manifest["kind"]].path(namespace), manifest)

    async def tell_pod(self, manifest: Object, namespace: str, subresource: str) -> None:
        """POST a Binding or an Eviction to the pod of its name."""
        name = manifest["metadata"]["name"]
        await self._send("POST", resources.POD.path(namespace, name, subresource), manifest)

    async def refuses(self, manifest: Object, namespace: str) -> bool:
        """Whether the API server would refuse to create an object (dry run)."""
        try:
            await self._send("POST", BY_KIND[manifest["kind"]].path(namespace) + "?dryRun=All", manifest)
        except ApiServerError as error:
            return error.status in (403, 422)
        return False

    async def patch(
        self, kind: str, namespace: str | None, name: str, body: Object, subresource: str | None = None
    ) -> Object:
        """Merge-patch an object or its status."""
        return await self._send("PATCH", BY_KIND[kind].path(namespace, name, subresource), body, MERGE)

    async def replace(self, manifest: Object) -> Object:
        """PUT a cluster-scoped object."""
        path = BY_KIND[manifest["kind"]].path(None, manifest["metadata"]["name"])
        return await self._send("PUT", path, manifest)

    async def delete(self, kind: str, namespace: str | None, name: str, **options: Any) -> None:
        """Delete an object; one that is gone already is no error. `options` are DeleteOptions."""
        try:
            await self._send("DELETE", BY_KIND[kind].path(namespace, name), options)
        except ApiServerError as error:
            if error.status != 404:
                raise

    async def watch(self, kind: str, version: str) -> AsyncIterator[Object]:
        """Events of a kind in all namespaces until the server ends the stream."""
        query = {"watch": "true", "resourceVersion": version, "allowWatchBookmarks": "true"}
        url = self.url + BY_KIND[kind].path(None)
        async with self.session.get(url, params=query, read_bufsize=2**22) as answer:
            if answer.status != 200:
                raise ApiServerError(answer.status, json.loads(await answer.read()))
            async for line in answer.content:
                yield json.loads(line)

    async def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, content: str = "application/json"
    ) -> Object:
        """One request, repeated while no API server listens."""
        for _ in range(300):
            try:
                return await self._once(method, path, body, content)
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError):
                await asyncio.sleep(0.1)
        raise AssertionError("the API server does not come back")

    async def _once(self, method: str, path: str, body: Mapping[str, Any] | None, content: str) -> Object:
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": content, "Accept": "application/json"}
        async with self.session.request(method, self.url + path, data=data, headers=headers) as answer:
            document: Object = json.loads(await answer.read())
            if answer.status >= 300:
                raise ApiServerError(answer.status, document)
            return document
