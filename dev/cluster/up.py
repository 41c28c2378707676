"""`python -m dev up`: everything started and ready, in an order that wastes no time."""

import fcntl
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from dev import chart, images
from dev.cluster import binaries, bootstrap, controlplane, health
from dev.cluster.failure import ClusterError
from dev.cluster.home import State
from dev.cluster.machine import cgroups, host, network
from dev.cluster.machine.remains import clear_after_reboot
from dev.cluster.node import IDENTITIES, NODE_NAME, Node
from dev.cluster.pki import write_private
from dev.cluster.process import Command, Supervisor
from dev.cluster.readiness import cri_answers, wait_until
from dev.images.build import references

_ROOT = Path(__file__).resolve().parents[2]
_READY_SECONDS = 90


@dataclass(frozen=True)
class Running:
    """A cluster that is up."""

    kubeconfig: Path
    binaries: Path


def up(home: Path, *, bare: bool = False) -> Running:
    """Start what does not run and wait until all is ready; `bare` leaves out images and the operator."""
    host.prepare()
    home.mkdir(parents=True, exist_ok=True)
    with alone(home), ThreadPoolExecutor(max_workers=1) as aside:
        built = None if bare else aside.submit(images.build_all, home)
        found = binaries.ensure()
        running = start_cluster(State(home), found)
        if built is not None:
            install_operator(running, built)
    return running


def start_cluster(state: State, found: Path) -> Running:
    """Control plane, node, DNS and storage."""
    supervisor = Supervisor(state.folder)
    state.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    place = controlplane.Place(state.folder, found, network.NODE_ADDRESS)
    health.require_free_ports(place, supervisor)
    with _step("network, groups and certificates"):
        clear_after_reboot(state)
        prepare_machine(state)
        make_identities(state, place)
    with _step("etcd and kube-apiserver"):
        controlplane.start(place, supervisor)
    node = Node(state, found, place.url, references()["pause"])
    with _step("containerd, kubelet, controllers, proxy, DNS and storage"):
        start_first(node, supervisor)
        apply(found, state.kubeconfig)
        start_rest(node, supervisor)
        wait_for_node(found, state.kubeconfig, supervisor)
        health.wait_for_all(state, supervisor, _READY_SECONDS)
    return Running(state.kubeconfig, found)


def prepare_machine(state: State) -> None:
    """What belongs to the machine: devices, kernel settings, control groups."""
    network.raise_network(state.folder / "kernel-settings.json")
    cgroups.make()


def make_identities(state: State, place: controlplane.Place) -> None:
    """Certificates of everyone and the administrator's kubeconfig."""
    controlplane.make_certificates(place, IDENTITIES)
    state.settings.mkdir(exist_ok=True)
    write_private(state.kubeconfig, place.pki.kubeconfig("admin", place.url))


def start_first(node: Node, supervisor: Supervisor) -> None:
    """What needs none of our own roles."""
    for command in (node.containerd(), node.controller_manager(), node.scheduler()):
        supervisor.start(command)


def start_rest(node: Node, supervisor: Supervisor) -> None:
    """What needs our roles; the kubelet after containerd answers, or it gives up."""
    wait_until(lambda: cri_answers(node.state.socket), supervisor, "containerd", _READY_SECONDS)
    for command in (node.kubelet(), node.proxy(), node.dns(), provisioner(node)):
        supervisor.start(command)


def provisioner(node: Node) -> Command:
    """Our own storage provisioner, with this Python."""
    kubeconfig, source = node.kubeconfig("provisioner"), _ROOT / "dev/cluster/provisioner.py"
    options: list[str | Path] = [
        "--kubeconfig",
        kubeconfig,
        "--volumes",
        node.state.volumes,
        "--node",
        NODE_NAME,
    ]
    argv: list[str | Path] = [sys.executable, "-m", "dev.cluster.provisioner", *options]
    return Command("provisioner", argv, [kubeconfig, source], env={"PYTHONPATH": str(_ROOT)})


def apply(found: Path, kubeconfig: Path) -> None:
    """Roles, storage class and namespaces."""
    documents = yaml.safe_dump_all(bootstrap.objects(), sort_keys=False)
    kubectl(found, kubeconfig, "apply", "--server-side", "--force-conflicts", "-f", "-", stdin=documents)


def wait_for_node(found: Path, kubeconfig: Path, supervisor: Supervisor) -> None:
    """Await the node through watches; the kubelet's log is in the message when it does not come."""
    limit, node = f"--timeout={_READY_SECONDS}s", f"node/{NODE_NAME}"
    try:
        kubectl(found, kubeconfig, "wait", "--for=create", node, limit)
        kubectl(found, kubeconfig, "wait", "--for=condition=Ready", node, limit)
    except ClusterError as error:
        raise ClusterError(
            f"the node did not become ready ({error}); {supervisor.explain('kubelet')}"
        ) from None


def install_operator(running: Running, built: "Future[dict[str, str]]") -> None:
    """The chart, once the images are there."""
    with _step("images"):
        refs = built.result()
    with _step("operator, by its Helm chart"):
        chart.install(running.kubeconfig, running.binaries, refs)


def kubectl(found: Path, kubeconfig: Path, *arguments: str, stdin: str | None = None) -> str:
    """Run the cluster's own kubectl; ClusterError with what it said."""
    command = [str(found / "kubectl"), "--kubeconfig", str(kubeconfig), *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


@contextmanager
def _step(what: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    print(f"cluster: {what}: {time.monotonic() - start:.1f} s", flush=True)


@contextmanager
def alone(home: Path) -> Iterator[None]:
    """One `up` or `down` at a time for one home."""
    with (home / "cluster.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("cluster: waiting for another `up` or `down` to end ...", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
