"""Where an evaluation is sent to, one target after the other."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from finetune_trainer.contracts import AdapterManifest, EvaluationSpec, Job
from finetune_trainer.contracts.evaluation import MlflowSpec
from finetune_trainer.evaluation.report import evaluated_report
from finetune_trainer.evaluation.traces import all_answers
from finetune_trainer.exporting.connection import Connection, ExportFailed
from finetune_trainer.exporting.mlflow import send_run
from finetune_trainer.exporting.open_telemetry import send_spans
from finetune_trainer.results import latest_evaluation
from finetune_trainer.sources.credentials import Purpose, credential
from finetune_trainer.workspace import Workspace

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """What there is to send: the job, its workspace, and the manifest with its digest."""

    job: Job
    workspace: Workspace
    manifest: AdapterManifest
    digest: str


@dataclass(frozen=True)
class _Target:
    name: str
    purpose: Purpose
    address: str
    send: Callable[[Connection], None]


def export(published: Published) -> list[str]:
    """Send to every target that the job names; a sentence for each that did not take it."""
    evaluation = published.job.spec.evaluation
    if evaluation is None or evaluation.export is None:
        return []
    failures = (_failure(target) for target in _targets(published, evaluation))
    return [failure for failure in failures if failure]


def _targets(published: Published, evaluation: EvaluationSpec) -> Iterator[_Target]:
    wanted = evaluation.export
    if wanted and (mlflow := wanted.mlflow):
        yield _Target("MLflow", "mlflow", mlflow.tracking_uri, partial(_to_mlflow, published, mlflow))
    if wanted and (collector := wanted.open_telemetry):
        send = partial(_to_collector, published, evaluation)
        yield _Target("OpenTelemetry", "open-telemetry", collector.endpoint, send)


def _failure(target: _Target) -> str | None:
    """Why not everything was sent; None when it was."""
    try:
        with Connection(target.address, credential(target.purpose, "token")) as connection:
            target.send(connection)
    except ExportFailed as error:
        _log.warning("the export to %s failed: %s", target.name, error)
        return f"The evaluation could not be sent to {target.name}: {error}."
    return None


def _to_mlflow(published: Published, spec: MlflowSpec, connection: Connection) -> None:
    job, workspace = published.job, published.workspace
    evaluated = latest_evaluation(workspace)
    report = evaluated_report(job, workspace, evaluated.summary if evaluated else None)
    if report is None or report.evaluation is None:
        raise ExportFailed("the workspace holds no evaluation any more")
    send_run(connection, spec, job, published.manifest, published.digest, report.evaluation)


def _to_collector(published: Published, evaluation: EvaluationSpec, connection: Connection) -> None:
    answers = all_answers(published.workspace, evaluation)
    if answers is None:
        raise ExportFailed("the workspace holds no graded answers any more")
    send_spans(connection, published.job, answers)
