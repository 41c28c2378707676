"""How each process says that it is well."""

import ssl
from collections.abc import Callable
from pathlib import Path

from dev.cluster import controlplane
from dev.cluster.failure import ClusterError
from dev.cluster.home import State
from dev.cluster.machine.network import NODE_ADDRESS
from dev.cluster.machine.remains import port_in_use
from dev.cluster.process import Supervisor
from dev.cluster.readiness import answers, client_context, cri_answers, wait_until

Check = Callable[[], bool]


def checks(state: State) -> dict[str, Check]:
    """Every process by name, in the order in which a reader looks for them."""
    place = controlplane.Place(state.folder, Path(), NODE_ADDRESS)
    admin = client_context(place.pki, "admin")
    etcd = client_context(place.pki, "etcd-client", place.pki.certificate("etcd-ca"))
    return {
        "etcd": _get(f"https://127.0.0.1:{place.etcd_port}/health", etcd),
        "kube-apiserver": _get(f"{place.url}/readyz", admin),
        "kube-controller-manager": _get(f"https://{NODE_ADDRESS}:10257/healthz", admin),
        "kube-scheduler": _get(f"https://{NODE_ADDRESS}:10259/healthz", admin),
        "containerd": lambda: cri_answers(state.socket),
        "kubelet": _get(f"http://{NODE_ADDRESS}:10248/healthz"),
        "kube-proxy": _get(f"http://{NODE_ADDRESS}:10256/healthz"),
        "coredns": _get(f"http://{NODE_ADDRESS}:8181/ready"),
        "provisioner": lambda: True,
    }


def wait_for_all(state: State, supervisor: Supervisor, seconds: float) -> None:
    """Until every process is alive and well; ClusterError names the one that is not."""
    for name, check in checks(state).items():
        wait_until(check, supervisor, name, seconds)
        supervisor.require_alive(name)


def require_free_ports(place: controlplane.Place, supervisor: Supervisor) -> None:
    """ClusterError when a program of someone else is where ours would listen."""
    listeners = {
        "etcd": ("127.0.0.1", place.etcd_port),
        "kube-apiserver": (place.address, place.port),
        "kubelet": (place.address, 10250),
    }
    for name, (address, port) in listeners.items():
        if supervisor.record(name) is None and port_in_use(address, port):
            raise ClusterError(
                f"{name} cannot start: another program uses port {port} of {address}. Stop it; when it is a "
                "cluster started with another FINETUNE_DEV_HOME, run `python -m dev down` with that one"
            )


def _get(url: str, context: ssl.SSLContext | None = None) -> Check:
    return lambda: answers(url, context)
