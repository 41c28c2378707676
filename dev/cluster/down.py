"""`python -m dev down`: nothing of the cluster is left but caches."""

import shutil
from pathlib import Path

from dev import images
from dev.cluster.home import State
from dev.cluster.machine import cgroups, host, network, remains
from dev.cluster.process import Supervisor
from dev.cluster.up import alone

_RESTARTERS = ["kubelet", "kube-controller-manager", "kube-scheduler", "provisioner", "coredns", "kube-proxy"]
"""Stopped first: they would bring pods back, or change what is being taken down."""


def down(home: Path) -> None:
    """Stop everything and remove the cluster's objects and volumes; binaries and images stay."""
    host.require_root()
    home.mkdir(parents=True, exist_ok=True)
    state = State(home)
    with alone(home):
        stop_processes(state)
        images.stop_registry(home)
        remains.unmount_below(state.folder)
        remains.sweep(state)
        network.lower_network(state.folder / "kernel-settings.json")
        cgroups.remove()
        for folder in state.ephemeral:
            shutil.rmtree(folder, ignore_errors=True)
        for file in (state.kubeconfig, state.folder / "boot-id", *state.folder.glob("*.sock*")):
            file.unlink(missing_ok=True)


def stop_processes(state: State) -> None:
    """Controllers, then pods, then containerd (it has to notice that pods ended), then the API."""
    supervisor = Supervisor(state.folder)
    supervisor.stop(_RESTARTERS)
    cgroups.kill()
    remains.stop_shims(state.socket)
    if supervisor.record("containerd"):
        remains.forget_containers(state.socket)
    supervisor.stop(["containerd"])
    supervisor.stop(["kube-apiserver"])
    supervisor.stop(supervisor.known())
