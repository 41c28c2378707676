"""Where everything of the embedded cluster lives on disk."""

import os
from dataclasses import dataclass
from pathlib import Path


def home() -> Path:
    """The one folder of this project's machinery: FINETUNE_DEV_HOME, else ~/.cache/finetune-operator."""
    chosen = os.environ.get("FINETUNE_DEV_HOME")
    folder = Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "finetune-operator"
    return folder.absolute()


@dataclass(frozen=True)
class State:
    """The running cluster's files, `home`/run; what may outlive `down` is outside `ephemeral`."""

    home: Path

    @property
    def folder(self) -> Path:
        """The state folder itself."""
        return self.home / "run"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig: what users put into KUBECONFIG."""
        return self.folder / "admin.kubeconfig"

    @property
    def volumes(self) -> Path:
        """One folder per bound claim of the storage class."""
        return self.folder / "volumes"

    @property
    def kubelet(self) -> Path:
        """The kubelet's root folder: pods and their mounts."""
        return self.folder / "kubelet"

    @property
    def containerd(self) -> Path:
        """containerd's folder; its `root` holds pulled images and outlives `down`."""
        return self.folder / "containerd"

    @property
    def socket(self) -> Path:
        """containerd's socket."""
        return self.folder / "containerd.sock"

    @property
    def settings(self) -> Path:
        """Configuration files written at every start."""
        return self.folder / "settings"

    @property
    def ephemeral(self) -> tuple[Path, ...]:
        """What `down` removes: the cluster's objects, pods, volumes and identities."""
        names = (
            "etcd",
            "kubelet",
            "volumes",
            "pki",
            "settings",
            "cni",
            "pod-logs",
            "containerd/state",
            "containerd/runc",
        )
        return tuple(self.folder / name for name in names)
