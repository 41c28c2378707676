"""`python -m dev status`: what runs, whether it is well, and how to use it."""

import json
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dev.cluster import binaries
from dev.cluster.failure import ClusterError
from dev.cluster.health import checks
from dev.cluster.home import State
from dev.cluster.node import NODE_NAME
from dev.cluster.process import Supervisor
from dev.cluster.readiness import answers
from dev.cluster.up import kubectl
from dev.images.registry import ADDRESS as REGISTRY


@dataclass(frozen=True)
class Part:
    """One row."""

    name: str
    pid: int | None
    healthy: bool
    detail: str = ""

    @property
    def word(self) -> str:
        """What a reader wants to know first."""
        if self.healthy:
            return "healthy"
        return "stopped" if self.pid is None else "not healthy"


def show(home: Path, console: Console) -> int:
    """Print the table; exit code 0 when everything is well and 1 when not."""
    state = State(home)
    if not state.kubeconfig.exists():
        console.print("The embedded cluster is not up. Start it with: make up")
        return 1
    parts = [*processes(state), registry(), node(state)]
    console.print(table(parts))
    console.print(f"export KUBECONFIG={state.kubeconfig}", soft_wrap=True)
    console.print(
        f"logs: {state.folder / 'logs'}   programs: {home / 'bin' / binaries.digest()}", soft_wrap=True
    )
    return 0 if all(part.healthy for part in parts) else 1


def table(parts: list[Part]) -> Table:
    """The parts as a table."""
    found = Table("component", "health", "pid", "detail")
    for part in parts:
        colour = "green" if part.healthy else "red"
        pid = "" if part.pid is None else str(part.pid)
        found.add_row(part.name, f"[{colour}]{part.word}", pid, part.detail)
    return found


def processes(state: State) -> list[Part]:
    """Every process of ours with the answer of its own health endpoint."""
    supervisor = Supervisor(state.folder)
    found = []
    for name, check in checks(state).items():
        record = supervisor.record(name)
        found.append(Part(name, record.pid if record else None, record is not None and check()))
    return found


def registry() -> Part:
    """The image registry; dev/images owns its process."""
    return Part("registry", None, answers(f"http://{REGISTRY}/v2/"), REGISTRY)


def node(state: State) -> Part:
    """The node as the API server sees it, with versions."""
    found = state.home / "bin" / binaries.digest()
    try:
        document = json.loads(kubectl(found, state.kubeconfig, "get", "node", NODE_NAME, "-o", "json"))
    except (ClusterError, OSError) as error:
        return Part(f"node {NODE_NAME}", None, healthy=False, detail=str(error)[:200])
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in document["status"]["conditions"])
    info = document["status"]["nodeInfo"]
    versions = [
        f"Kubernetes {info['kubeletVersion']}",
        info["containerRuntimeVersion"],
        info["kernelVersion"],
    ]
    return Part(f"node {NODE_NAME}", None, ready, ", ".join(versions))
