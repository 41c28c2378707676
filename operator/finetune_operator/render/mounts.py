"""The volumes of a pod and what of them its containers mount."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_TMP_SIZE = "20Gi"  # of the home folder: caches of downloads and compiled kernels, never models or data
_SOCKETS_SIZE = "16Mi"


@dataclass
class Mounts:
    """The volumes of a pod, each once, and the mounts of one of its containers.

    With `only_reads` a claim that no container writes to is attached for reading, so that volumes which
    only can be read (ReadOnlyMany) work.
    """

    volumes: dict[str, dict[str, Any]] = field(default_factory=dict)
    mounts: list[dict[str, Any]] = field(default_factory=list)
    only_reads: bool = False

    def of_another_container(self) -> Mounts:
        """The same pod, nothing mounted yet."""
        return Mounts(self.volumes, only_reads=self.only_reads)

    def tmp(self, name: str = "tmp") -> None:
        """A writable /tmp."""
        self.empty_dir(name, "/tmp", _TMP_SIZE)  # noqa: S108

    def sockets(self, name: str, path: str) -> None:
        """A folder in which containers meet at a socket."""
        self.empty_dir(name, path, _SOCKETS_SIZE)

    def shared_memory(self, size: str, name: str = "shm") -> None:
        """Shared memory, in which workers and engines exchange tensors; without it all containers of a pod
        share 64 MiB.
        """
        self.memory_dir(name, "/dev/shm", size)  # noqa: S108

    def empty_dir(self, name: str, path: str, size: str | None = None, *, read_only: bool = False) -> None:
        """A folder that lives as long as the pod; a pod that fills more than `size` is evicted."""
        content = {} if size is None else {"sizeLimit": size}
        self._add({"name": name, "emptyDir": content}, path, read_only=read_only)

    def memory_dir(self, name: str, path: str, size: str, *, read_only: bool = False) -> None:
        """A folder in memory, which refuses what goes beyond its size."""
        volume = {"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": size}}
        self._add(volume, path, read_only=read_only)

    def config_map(self, config_map: str, path: str) -> None:
        """The keys of a ConfigMap as files."""
        self._add(self._named("data", {"configMap": {"name": config_map}}), path, read_only=True)

    def secret(self, name: str, secret: str, path: str) -> None:
        """The keys of a Secret as files."""
        self._add({"name": name, "secret": {"secretName": secret}}, path, read_only=True)

    def secret_keys(
        self, name: str, secret: str, path: str, required: Sequence[str], optional: Sequence[str]
    ) -> None:
        """Some keys of a Secret, readable by the pod's group; the pod waits for those that are required."""
        sources = [
            {
                "secret": {
                    "name": secret,
                    "items": [{"key": key, "path": key} for key in keys],
                    "optional": left,
                }
            }
            for keys, left in ((required, False), (optional, True))
            if keys
        ]
        self._add(
            {"name": name, "projected": {"defaultMode": 0o440, "sources": sources}}, path, read_only=True
        )

    def claim(self, claim: str, path: str, *, read_only: bool, folder: str | None = None) -> None:
        """A PersistentVolumeClaim, or a folder of it; mounted at several paths it stays one volume.

        With `only_reads` what writes to a claim has to come before what reads it: a pod cannot have a claim
        as two volumes.
        """
        source: dict[str, Any] = {"claimName": claim}
        written = any(volume.get("persistentVolumeClaim") == source for volume in self.volumes.values())
        if self.only_reads and read_only and not written:
            source["readOnly"] = True
        volume = self._named("claim", {"persistentVolumeClaim": source})
        self._add(volume, path, read_only=read_only, folder=folder)

    def _named(self, prefix: str, content: dict[str, Any]) -> dict[str, Any]:
        """The volume with this content; a new one is numbered, as names of objects may hold dots."""
        for volume in self.volumes.values():
            if content.items() <= volume.items():
                return volume
        number = 1 + sum(1 for name in self.volumes if name.startswith(f"{prefix}-"))
        return {"name": f"{prefix}-{number}", **content}

    def _add(
        self, volume: dict[str, Any], path: str, *, read_only: bool = False, folder: str | None = None
    ) -> None:
        self.volumes.setdefault(volume["name"], volume)
        mount: dict[str, Any] = {"name": volume["name"], "mountPath": path}
        if read_only:
            mount["readOnly"] = True
        if folder is not None:
            mount["subPath"] = folder
        if mount not in self.mounts:
            self.mounts.append(mount)
