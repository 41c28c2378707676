"""Volumes of the storage class `finetune-local`: one folder of this machine per claim.

hostPath volumes ignore fsGroup, and other local provisioners refuse ReadWriteMany, which is honest with one
node. Run as `python -m dev.cluster.provisioner --kubeconfig FILE --volumes DIR --node NAME`.
"""

import argparse
import os
import queue
import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from dev.cluster.bootstrap import PROVISIONER, STORAGE_CLASS

POD_USER = 10001
"""uid and gid of every container of this project."""
_FOLDER_MODE = 0o2770
_PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
_RETRY_SECONDS = 2.0


@dataclass(frozen=True)
class Claim:
    """What matters of a PersistentVolumeClaim."""

    namespace: str
    name: str
    uid: str
    storage_class: str | None
    modes: tuple[str, ...]
    size: str
    pending: bool

    @property
    def volume(self) -> str:
        """The volume's name, the same at every try."""
        return f"pvc-{self.uid}"


@dataclass(frozen=True)
class Volume:
    """What matters of a PersistentVolume; `path` is empty when it is not a local one."""

    name: str
    phase: str
    path: str
    provisioner: str


@dataclass(frozen=True)
class Plan:
    """What one look at the cluster asks for."""

    create: tuple[Claim, ...]
    remove: tuple[Volume, ...]


def plan(claims: Sequence[Claim], volumes: Sequence[Volume]) -> Plan:
    """Pending claims of our class get a volume; volumes of ours whose claim is gone go."""
    existing = {volume.name for volume in volumes}
    wanted = [claim for claim in claims if claim.pending and claim.storage_class == STORAGE_CLASS]
    released = [
        volume for volume in volumes if volume.phase == "Released" and volume.provisioner == PROVISIONER
    ]
    return Plan(tuple(claim for claim in wanted if claim.volume not in existing), tuple(released))


def manifest(claim: Claim, folder: Path, node: str) -> dict[str, Any]:
    """The volume for a claim, already meant for it alone."""
    reference = {"kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": claim.namespace}
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": claim.volume, "annotations": {_PROVISIONED_BY: PROVISIONER}},
        "spec": {
            "accessModes": list(claim.modes),
            "capacity": {"storage": claim.size},
            "claimRef": {**reference, "name": claim.name, "uid": claim.uid},
            "local": {"path": str(folder)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": STORAGE_CLASS,
            "volumeMode": "Filesystem",
        },
    }


class Provisioner:
    """Carries plans out."""

    def __init__(self, api: client.CoreV1Api, volumes: Path, node: str) -> None:
        """`volumes` is the only folder in which anything is made or removed."""
        self.api, self.volumes, self.node = api, volumes, node

    def reconcile(self) -> None:
        """One look and what follows from it."""
        found = plan(self._claims(), self._existing())
        for claim in found.create:
            self.create(claim)
        for volume in found.remove:
            self.remove(volume)

    def create(self, claim: Claim) -> None:
        """The folder first: a volume is never visible before a pod can write to it."""
        folder = self.volumes / claim.volume
        folder.mkdir(parents=True, exist_ok=True)
        os.chown(folder, POD_USER, POD_USER)
        folder.chmod(_FOLDER_MODE)
        try:
            self.api.create_persistent_volume(manifest(claim, folder, self.node))
        except ApiException as error:
            if error.status != 409:
                raise
        _say("created", claim.namespace, claim.name, claim.volume)

    def remove(self, volume: Volume) -> None:
        """The folder first: a crash in between leaves a volume that is found again, not a lost folder."""
        folder = Path(volume.path)
        if folder.parent == self.volumes and folder.name == volume.name:
            shutil.rmtree(folder, ignore_errors=True)
        try:
            self.api.delete_persistent_volume(volume.name)
        except ApiException as error:
            if error.status != 404:
                raise
        _say("removed", "", volume.name, volume.name)

    def _claims(self) -> list[Claim]:
        return [_claim(item) for item in self.api.list_persistent_volume_claim_for_all_namespaces().items]

    def _existing(self) -> list[Volume]:
        return [_volume(item) for item in self.api.list_persistent_volume().items]


def _claim(item: Any) -> Claim:
    return Claim(
        namespace=item.metadata.namespace,
        name=item.metadata.name,
        uid=item.metadata.uid,
        storage_class=item.spec.storage_class_name,
        modes=tuple(item.spec.access_modes),
        size=item.spec.resources.requests["storage"],
        pending=item.status.phase == "Pending"
        and not item.metadata.deletion_timestamp
        and not item.spec.volume_name,
    )


def _volume(item: Any) -> Volume:
    return Volume(
        name=item.metadata.name,
        phase=item.status.phase or "",
        path=item.spec.local.path if item.spec.local else "",
        provisioner=(item.metadata.annotations or {}).get(_PROVISIONED_BY, ""),
    )


def _say(action: str, namespace: str, name: str, volume: str) -> None:
    print(f"action={action} namespace={namespace} name={name} volume={volume}", flush=True)


def _follow(listing: Callable[..., Any], wake: "queue.Queue[str]") -> None:
    """Wake the loop at every change; a broken watch is opened again."""
    pause = threading.Event()
    while True:
        try:
            for _ in watch.Watch().stream(listing, timeout_seconds=300):
                wake.put("changed")
        except (ApiException, HTTPError, OSError) as error:
            print(
                f"action=watch-again error={type(error).__name__} status={getattr(error, 'status', None)}",
                flush=True,
            )
            pause.wait(_RETRY_SECONDS)
            wake.put("watch lost")


def run(provisioner: Provisioner) -> None:
    """Reconcile now and after every change, for ever; what fails is tried again."""
    wake: queue.Queue[str] = queue.Queue()
    listings = (
        provisioner.api.list_persistent_volume_claim_for_all_namespaces,
        provisioner.api.list_persistent_volume,
    )
    for listing in listings:
        threading.Thread(target=_follow, args=(listing, wake), daemon=True).start()
    delay: float | None = 0.0
    while True:
        _drain(wake, delay)
        try:
            provisioner.reconcile()
            delay = None
        except (ApiException, HTTPError, OSError) as error:
            print(
                f"action=try-again error={type(error).__name__} status={getattr(error, 'status', None)}",
                flush=True,
            )
            delay = _RETRY_SECONDS


def _drain(wake: "queue.Queue[str]", seconds: float | None) -> None:
    """Wait for a change (at most `seconds`), and take everything that came with it."""
    try:
        wake.get(timeout=seconds)
        while True:
            wake.get_nowait()
    except queue.Empty:
        return


def main(arguments: Sequence[str]) -> None:
    """Run until killed."""
    parser = argparse.ArgumentParser(prog="dev.cluster.provisioner")
    for name in ("--kubeconfig", "--volumes", "--node"):
        parser.add_argument(name, required=True)
    options = parser.parse_args(arguments)
    api = client.CoreV1Api(config.new_client_from_config(options.kubeconfig))
    run(Provisioner(api, Path(options.volumes), options.node))


if __name__ == "__main__":
    main(sys.argv[1:])
