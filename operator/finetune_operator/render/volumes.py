"""What a stage pod mounts and where (docs/contracts.md, "Paths inside stage pods")."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.core.sources import Source, parse_source
from finetune_operator.render.credentials import CREDENTIALS, Credential, credentials
from finetune_operator.render.names import workspace_name

JOB_FOLDER = "/etc/finetune/job"
JOB_FILE = f"{JOB_FOLDER}/job.json"
WORKSPACE = "/workspace"


@dataclass
class Mounts:
    """The volumes of a pod, each once, and the mounts of its containers."""

    volumes: dict[str, dict[str, Any]] = field(default_factory=dict)
    mounts: list[dict[str, Any]] = field(default_factory=list)

    def empty_dir(self, name: str, path: str, **options: str) -> None:
        """A folder that lives as long as the pod."""
        self._add({"name": name, "emptyDir": dict(options)}, path, read_only=False)

    def config_map(self, config_map: str, path: str) -> None:
        """The keys of a ConfigMap as files."""
        self._add(self._named("data", {"configMap": {"name": config_map}}), path, read_only=True)

    def claim(self, claim: str, path: str, *, read_only: bool) -> None:
        """A PersistentVolumeClaim; one that is mounted at several paths stays one volume."""
        content = {"persistentVolumeClaim": {"claimName": claim}}
        self._add(self._named("claim", content), path, read_only=read_only)

    def credential(self, credential: Credential, path: str) -> None:
        """The keys of a Secret that a fetch needs, readable by the pod's user alone."""
        sources = [
            {"secret": {"name": credential.secret, "items": _keys(keys), "optional": optional}}
            for keys, optional in ((credential.required, False), (credential.optional, True))
            if keys
        ]
        content = {"defaultMode": 0o440, "sources": sources}
        self._add({"name": credential.purpose, "projected": content}, path, read_only=True)

    def _named(self, prefix: str, content: dict[str, Any]) -> dict[str, Any]:
        """The volume with this content; a new one is numbered, as names of objects may hold dots."""
        for volume in self.volumes.values():
            if content.items() <= volume.items():
                return volume
        number = 1 + sum(1 for name in self.volumes if name.startswith(f"{prefix}-"))
        return {"name": f"{prefix}-{number}", **content}

    def _add(self, volume: dict[str, Any], path: str, *, read_only: bool) -> None:
        self.volumes.setdefault(volume["name"], volume)
        mount: dict[str, Any] = {"name": volume["name"], "mountPath": path}
        if read_only:
            mount["readOnly"] = True
        if mount not in self.mounts:
            self.mounts.append(mount)


def workspace_claim(job: FineTuneJob) -> str:
    """The claim that all stages share: the user's, or ours."""
    return job.spec.workspace.claim_name or workspace_name(job)


def sources(job: FineTuneJob) -> dict[str, Source]:
    """Every address of the spec by the field that holds it; raises SourceError."""
    spec = job.spec
    found = {"spec.baseModel.source": spec.base_model.source, "spec.dataset.source": spec.dataset.source}
    if spec.evaluation is not None and spec.evaluation.dataset is not None:
        found["spec.evaluation.dataset.source"] = spec.evaluation.dataset.source
    found["spec.output.destination"] = spec.output.destination
    return {field_name: parse_source(address) for field_name, address in found.items()}


def base_path(job: FineTuneJob) -> str:
    """Where the base model is: in the workspace once it was fetched, or on its own claim."""
    source = parse_source(job.spec.base_model.source)
    if source.scheme == "hf":
        return f"{WORKSPACE}/base"
    return f"/sources/pvc/{source.claim}/{source.path}".rstrip("/")


def common(job: FineTuneJob, config_map: str) -> Mounts:
    """What every stage sees: its job.json, the workspace, a writable /tmp."""
    mounts = Mounts()
    mounts.config_map(config_map, JOB_FOLDER)
    mounts.claim(workspace_claim(job), WORKSPACE, read_only=False)
    mounts.empty_dir("tmp", "/tmp")  # noqa: S108
    return mounts


def add_base(mounts: Mounts, job: FineTuneJob) -> None:
    """The claim of a pvc:// base; a fetched one is in the workspace."""
    _add_sources(mounts, [parse_source(job.spec.base_model.source)])


def add_data(mounts: Mounts, job: FineTuneJob) -> None:
    """The claims and ConfigMaps of the training data and of the hold-out."""
    found = sources(job)
    _add_sources(mounts, (source for name, source in found.items() if "dataset" in name))


def add_destination(mounts: Mounts, job: FineTuneJob) -> None:
    """The claim that the result is published to, writable."""
    claim = parse_source(job.spec.output.destination).claim or ""
    mounts.claim(claim, f"/destination/{claim}", read_only=False)


def add_shared_memory(mounts: Mounts, job: FineTuneJob) -> None:
    """Shared memory, in which workers and engines exchange tensors; a container's own is 64 MiB."""
    size = job.spec.resources.shared_memory or "1Gi"
    mounts.empty_dir("shm", "/dev/shm", medium="Memory", sizeLimit=size)  # noqa: S108


def add_credentials(mounts: Mounts, job: FineTuneJob) -> None:
    """The credentials of prepare, the only stage that fetches."""
    for credential in credentials(job):
        mounts.credential(credential, f"{CREDENTIALS}/{credential.purpose}")


def _keys(names: tuple[str, ...]) -> list[dict[str, str]]:
    return [{"key": name, "path": name} for name in names]


def _add_sources(mounts: Mounts, found: Iterable[Source]) -> None:
    for source in found:
        if source.scheme == "pvc" and source.claim:
            mounts.claim(source.claim, f"/sources/pvc/{source.claim}", read_only=True)
        if source.scheme == "configmap" and source.name:
            mounts.config_map(source.name, f"/sources/configmap/{source.name}")
