"""A run of an MLflow tracking server, by its REST API (2.0): settings, scores and curves."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

from finetune_trainer.contracts import AdapterManifest, Job
from finetune_trainer.contracts.evaluation import MlflowSpec
from finetune_trainer.evaluation.document import Curves, Evaluation
from finetune_trainer.exporting.connection import Connection, ExportFailed
from finetune_trainer.words import setting

_API = "/api/2.0/mlflow"
_UID = "finetune.uid"
_METRICS = 1000  # in one request, by the API's limit

Metric = dict[str, Any]


def send_run(
    connection: Connection,
    spec: MlflowSpec,
    job: Job,
    manifest: AdapterManifest,
    digest: str,
    evaluation: Evaluation,
) -> None:
    """Log the run once: an attempt after an interruption finds the run of the first by the job's uid."""
    now = round(time.time() * 1000)
    try:
        experiment = _experiment(connection, spec.experiment)
        run = _run(connection, experiment, job, now)
    except (KeyError, TypeError, IndexError) as error:
        raise ExportFailed("the answers are not those of an MLflow tracking server") from error
    about = {"params": params(manifest), "tags": tags(job, manifest, digest)}
    connection.post(f"{_API}/runs/log-batch", {"run_id": run, **about})
    for part in _parts(list(metrics(evaluation, now))):
        connection.post(f"{_API}/runs/log-batch", {"run_id": run, "metrics": part})
    connection.post(f"{_API}/runs/update", {"run_id": run, "status": "FINISHED", "end_time": now})


def metrics(evaluation: Evaluation, now: int) -> Iterator[Metric]:
    """The scores, and loss and learning rate at their steps; `now` in milliseconds since 1970."""
    for grader in evaluation.graders:
        for model, value in (("base", grader.base), ("tuned", grader.tuned)):
            if value is not None:
                yield _metric(f"{grader.name}/{model}", value, now)
    for name, found in evaluation.rivals.items():
        yield _metric(f"rivals/{name}", found.score, now)
    for name in ("score", "low", "high"):
        yield _metric(f"delta/{name}", getattr(evaluation.delta, name), now)
    for check in (*evaluation.secondary, *evaluation.regression):
        yield _metric(f"{check.name}/lowerBound", check.low, now)
    if evaluation.curves:
        yield from _curves(evaluation.curves, now)


def params(manifest: AdapterManifest) -> list[dict[str, str]]:
    """The method and the settings that prepare chose."""
    prepared = manifest.training["prepare"]
    chosen = {"method": manifest.method, **(prepared.get("training") or {}), **(prepared.get("lora") or {})}
    return [{"key": name, "value": setting(value)} for name, value in chosen.items()]


def tags(job: Job, manifest: AdapterManifest, digest: str) -> list[dict[str, str]]:
    """What the run was, and where its result is."""
    named = {
        _UID: job.uid,
        "finetune.job": f"{job.namespace}/{job.name}",
        "finetune.verdict": manifest.verdict or "",
        "finetune.promoted": setting(manifest.promoted),
        "finetune.base": manifest.base_model.source,
        "finetune.destination": job.spec.output.destination,
        "finetune.digest": digest,
        "finetune.data.train": manifest.data.train,
        "finetune.data.holdout": manifest.data.holdout or "",
    }
    return [{"key": name, "value": value} for name, value in named.items()]


def _experiment(connection: Connection, name: str) -> str:
    found = connection.get(f"{_API}/experiments/get-by-name", {"experiment_name": name})
    if found is None:
        return str(connection.post(f"{_API}/experiments/create", {"name": name})["experiment_id"])
    return str(found["experiment"]["experiment_id"])


def _run(connection: Connection, experiment: str, job: Job, now: int) -> str:
    wanted = {"experiment_ids": [experiment], "filter": f"tags.`{_UID}` = '{job.uid}'", "max_results": 1}
    found = connection.post(f"{_API}/runs/search", wanted).get("runs")
    if found:
        return str(found[0]["info"]["run_id"])
    made = {"experiment_id": experiment, "run_name": job.name, "start_time": now}
    named = {**made, "tags": [{"key": _UID, "value": job.uid}]}
    return str(connection.post(f"{_API}/runs/create", named)["run"]["info"]["run_id"])


def _curves(curves: Curves, now: int) -> Iterator[Metric]:
    for name, values in (("train/loss", curves.loss), ("train/learningRate", curves.learning_rate)):
        for place, value in enumerate(values):
            yield _metric(name, value, now, (place + 1) * curves.stride)


def _metric(name: str, value: float, now: int, step: int = 0) -> Metric:
    return {"key": name, "value": value, "timestamp": now, "step": step}


def _parts(values: Sequence[Metric]) -> Iterator[Sequence[Metric]]:
    return (values[start : start + _METRICS] for start in range(0, len(values), _METRICS))
