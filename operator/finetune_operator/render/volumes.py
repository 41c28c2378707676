"""What a stage pod mounts and where (docs/contracts.md, "Paths inside stage pods")."""

from __future__ import annotations

from collections.abc import Iterable

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.core.sources import Source, parse_source
from finetune_operator.render.credentials import (
    CREDENTIALS,
    Credential,
    credentials,
    export_credentials,
    judge_credential,
)
from finetune_operator.render.mounts import Mounts
from finetune_operator.render.names import folder_name, workspace_name

JOB_FOLDER = "/etc/finetune/job"
JOB_FILE = f"{JOB_FOLDER}/job.json"
WORKSPACE = "/workspace"


def workspace_claim(job: FineTuneJob) -> str:
    """The claim that all stages share: the user's, or ours."""
    return job.spec.workspace.claim_name or workspace_name(job)


def sources(job: FineTuneJob) -> dict[str, Source]:
    """Every address of the spec by the field that holds it; raises SourceError."""
    spec = job.spec
    found = {
        "spec.baseModel.source": spec.base_model.source,
        **{f"{field_name}.source": dataset.source for field_name, dataset in spec.datasets.items()},
        "spec.output.destination": spec.output.destination,
    }
    return {field_name: parse_source(address) for field_name, address in found.items()}


def base_path(job: FineTuneJob) -> str:
    """Where the base model is: in the workspace once it was fetched, or on its own claim."""
    source = parse_source(job.spec.base_model.source)
    if source.scheme == "hf":
        return f"{WORKSPACE}/base"
    return f"/sources/pvc/{source.claim}/{source.path}".rstrip("/")


def workspace_folder(job: FineTuneJob) -> str | None:
    """The run's own folder of a claim that other runs may use too; None for a claim of ours, used whole."""
    return folder_name(job) if job.spec.workspace.claim_name is not None else None


def add_workspace(mounts: Mounts, job: FineTuneJob, *, read_only: bool = False) -> None:
    """The workspace of the run."""
    mounts.claim(workspace_claim(job), WORKSPACE, read_only=read_only, folder=workspace_folder(job))


def common(job: FineTuneJob, config_map: str) -> Mounts:
    """What every stage sees: its job.json, the workspace, a writable /tmp."""
    mounts = Mounts()
    mounts.config_map(config_map, JOB_FOLDER)
    add_workspace(mounts, job)
    mounts.tmp()
    return mounts


def add_base(mounts: Mounts, job: FineTuneJob) -> None:
    """The claim of a pvc:// base; a fetched one is in the workspace."""
    _add_sources(mounts, [parse_source(job.spec.base_model.source)])


def add_data(mounts: Mounts, job: FineTuneJob) -> None:
    """The claims and ConfigMaps of the training data, of the hold-out and of the suites."""
    found = sources(job)
    _add_sources(mounts, (source for name, source in found.items() if "dataset" in name))


def add_destination(mounts: Mounts, job: FineTuneJob) -> None:
    """The claim that the result is published to, writable."""
    claim = parse_source(job.spec.output.destination).claim or ""
    mounts.claim(claim, f"/destination/{claim}", read_only=False)


def add_credentials(mounts: Mounts, job: FineTuneJob) -> None:
    """The credentials of prepare, the only stage that fetches."""
    for given in credentials(job):
        _add_credential(mounts, given)


def add_judge_credential(mounts: Mounts, job: FineTuneJob) -> None:
    """The judge's API key, for the scorer and not for the engine beside it."""
    given = judge_credential(job)
    if given is not None:
        _add_credential(mounts, given)


def add_export_credentials(mounts: Mounts, job: FineTuneJob) -> None:
    """The tokens of where publish sends the evaluation."""
    for given in export_credentials(job):
        _add_credential(mounts, given)


def _add_credential(mounts: Mounts, given: Credential) -> None:
    path = f"{CREDENTIALS}/{given.purpose}"
    mounts.secret_keys(given.purpose, given.secret, path, given.required, given.optional)


def add_api_key(mounts: Mounts, job: FineTuneJob) -> None:
    """The key that a scorer shows to its ModelServer, under the name of its entry."""
    engine = job.spec.scoring_engine
    if engine is not None and engine.api_key is not None:
        mounts.secret_keys("engine", engine.api_key.name, f"{CREDENTIALS}/engine", (engine.api_key.key,), ())


def _add_sources(mounts: Mounts, found: Iterable[Source]) -> None:
    for source in found:
        if source.scheme == "pvc" and source.claim:
            mounts.claim(source.claim, f"/sources/pvc/{source.claim}", read_only=True)
        if source.scheme == "configmap" and source.name:
            mounts.config_map(source.name, f"/sources/configmap/{source.name}")
