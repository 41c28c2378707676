"""A thin client of the API server under test: status codes and messages as they are."""

from __future__ import annotations

import copy
import ssl
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import yaml

ROOT = Path(__file__).resolve().parents[2]
GROUP = "/apis/finetune.dev/v1alpha1"
PLURALS = {
    "FineTuneJob": "finetunejobs",
    "ModelServer": "modelservers",
    "AdapterDeployment": "adapterdeployments",
}
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
MERGE = "application/merge-patch+json"
Object = dict[str, Any]
REMOVED = object()


@dataclass(frozen=True)
class Api:
    """Requests as the administrator, in one namespace."""

    http: httpx.Client
    namespace: str

    def path(self, kind: str, name: str = "", subresource: str = "") -> str:
        """The URL of a collection, an object or a subresource."""
        parts = [GROUP, "namespaces", self.namespace, PLURALS[kind], name, subresource]
        return "/".join(part for part in parts if part)

    def check(self, body: Object) -> httpx.Response:
        """A server-side dry run of a create; unknown fields are refused."""
        parameters = {"dryRun": "All", "fieldValidation": "Strict"}
        return self.http.post(self.path(body["kind"]), params=parameters, json=body)

    def create(self, body: Object) -> Object:
        """Create an object and return it as stored."""
        response = self.http.post(self.path(body["kind"]), params={"fieldValidation": "Strict"}, json=body)
        assert response.status_code == 201, response.text
        stored: Object = response.json()
        return stored

    def check_update(self, stored: Object, body: Object) -> httpx.Response:
        """A dry run of replacing a stored object."""
        fresh = {**body, "metadata": {**body["metadata"], "resourceVersion": _version(stored)}}
        parameters = {"dryRun": "All", "fieldValidation": "Strict"}
        there = replace(self, namespace=stored["metadata"]["namespace"])
        path = there.path(body["kind"], stored["metadata"]["name"])
        return self.http.put(path, params=parameters, json=fresh)


def connect(url: str, certificate: Path, key: Path, authority: Path) -> httpx.Client:
    """A client that authenticates with a certificate."""
    context = ssl.create_default_context(cafile=str(authority))
    context.load_cert_chain(certificate, key)
    return httpx.Client(base_url=url, verify=context, timeout=30)


def sample(name: str) -> Object:
    """A sample of crds/samples by its file name without .yaml."""
    body: Object = yaml.safe_load((ROOT / "crds" / "samples" / f"{name}.yaml").read_text())
    return body


def changed(body: Object, path: str, value: Any) -> Object:
    """A copy with the value at a dotted path replaced, or removed when it is REMOVED."""
    result = copy.deepcopy(body)
    node: Any = result
    *parents, last = path.split(".")
    for part in parents:
        node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
    if value is REMOVED:
        del node[last]
    elif isinstance(node, list):
        node[int(last)] = value
    else:
        node[last] = value
    return result


def _version(stored: Object) -> str:
    version: str = stored["metadata"]["resourceVersion"]
    return version
