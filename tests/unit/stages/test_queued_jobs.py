"""Which Jobs are Kueue's to admit, and which the operator resumes itself."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import Attempt, StageName
from finetune_operator.observe.queue import let_run, queue_problem, waiting
from finetune_operator.render.job import stage_job
from finetune_operator.render.pod import PodParts
from finetune_operator.render.resources import cpu_stage_resources
from finetune_operator.render.volumes import common
from tests.unit.stages.kubernetes_simulation import SETTINGS, SPEC

QUEUE = "kueue.x-k8s.io/queue-name"


def run(queue: str | None) -> FineTuneJob:
    metadata = {"name": "run", "namespace": "demo", "uid": "u-1", "generation": 1}
    scheduling = {"queueName": queue} if queue else {}
    return FineTuneJob.model_validate({"metadata": metadata, "spec": {**SPEC, "scheduling": scheduling}})


def job_of(stage: StageName, queue: str | None, command: str | None = None) -> dict[str, Any]:
    job = run(queue)
    attempt = Attempt(stage=stage, number=1, job=f"run-{stage}-1", state="Recorded")
    parts = PodParts(command or stage, common(job, attempt.job), cpu_stage_resources(SETTINGS))
    return dict(stage_job(job, SETTINGS, attempt, parts))


@pytest.mark.parametrize("stage", ["baseline", "train", "evaluate"])
def test_a_stage_that_holds_gpus_is_created_suspended_in_its_queue_and_is_not_the_operators_to_resume(
    stage: StageName,
) -> None:
    job = job_of(stage, "team")
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"][QUEUE] == "team"
    assert QUEUE not in job["spec"]["template"]["metadata"]["labels"]  # Kueue would queue the pods as well
    assert let_run(job, None, "team") is None
    assert waiting(job, None, kueue=True) is not None


@pytest.mark.parametrize(
    ("stage", "queue", "command"),
    [
        ("prepare", "team", None),
        ("publish", "team", None),
        ("train", "team", "reemit"),
        ("train", None, None),
    ],
)
def test_other_jobs_are_not_queued_and_the_operator_resumes_them(
    stage: StageName, queue: str | None, command: str | None
) -> None:
    job = job_of(stage, queue, command)
    assert job["spec"]["suspend"] is True
    assert QUEUE not in job["metadata"]["labels"]
    patch = let_run(job, None, queue)
    assert patch is not None
    assert patch.body["spec"] == {"suspend": False}


@pytest.mark.parametrize(
    ("stage", "queue", "kueue", "told"),
    [
        ("train", "team", False, "The train stage waits for LocalQueue team, but Kueue is not installed"),
        ("train", "team", True, None),
        ("train", None, False, None),
        ("prepare", "team", False, None),
    ],
)
def test_a_queue_without_kueue_is_told_before_a_job_exists(
    stage: StageName, queue: str | None, kueue: bool, told: str | None
) -> None:
    found = queue_problem(run(queue), stage, kueue=kueue)
    assert (found or "").startswith(told or "")
    assert (found is None) == (told is None)
