"""One real API server for all tests of this folder, with the generated CRDs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from dev.cluster import binaries
from dev.cluster.controlplane import ApiServer
from tests.apiserver.client import ROOT, Api, Object, connect, sample

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """The server."""
    with ApiServer(tmp_path_factory.mktemp("apiserver"), binaries.ensure(["kube-apiserver"])) as server:
        yield server


@pytest.fixture(scope="session")
def http(running: ApiServer) -> Iterator[httpx.Client]:
    """The administrator's connection to a server that knows our kinds."""
    pki = running.place.pki
    with connect(running.url, pki.certificate("admin"), pki.key("admin"), pki.certificate("ca")) as client:
        _install(client)
        yield client


@pytest.fixture(scope="session")
def api(http: httpx.Client) -> Api:
    """Requests in a namespace of their own."""
    return _namespace(http, "crds")


@pytest.fixture(scope="session")
def stored(http: httpx.Client) -> dict[str, Object]:
    """Every sample as stored, by its file name, in a namespace that other tests leave alone."""
    api = _namespace(http, "samples")
    names = sorted(path.stem for path in (ROOT / "crds" / "samples").glob("*.yaml"))
    return {name: api.create(sample(name)) for name in names}


def _namespace(http: httpx.Client, name: str) -> Api:
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    assert http.post("/api/v1/namespaces", json=body).status_code == 201
    return Api(http, name)


def _install(client: httpx.Client) -> None:
    files = sorted((ROOT / "crds").glob("*.yaml"))
    for file in files:
        response = client.post(CRDS, json=yaml.safe_load(file.read_text()))
        assert response.status_code == 201, f"{file.name}: {response.text}"
    for file in files:
        _wait_until_served(client, file)


def _wait_until_served(client: httpx.Client, file: Path) -> None:
    """Watch a definition until the server says that it serves it; the server ends the watch after 20 s."""
    name = yaml.safe_load(file.read_text())["metadata"]["name"]
    parameters = {"fieldSelector": f"metadata.name={name}", "watch": "true", "timeoutSeconds": "20"}
    with client.stream("GET", CRDS, params=parameters) as events:
        if not any(_established(line) for line in events.iter_lines()):
            raise AssertionError(f"{name} is not served after 20 s")


def _established(line: str) -> bool:
    conditions = json.loads(line)["object"].get("status", {}).get("conditions", [])
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)
