"""Which Jobs are Kueue's to admit, and which the operator resumes itself."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import Attempt, StageName
from finetune_operator.core.actions import Patch
from finetune_operator.observe.queue import let_run, queue_problem, waiting
from finetune_operator.render.job import stage_job
from finetune_operator.render.pod import PodParts
from finetune_operator.render.resources import cpu_stage_resources
from finetune_operator.render.volumes import common
from finetune_operator.stages.observed import Observed
from tests.unit.stages.kubernetes_simulation import SETTINGS, SPEC, KubernetesSimulation, merged

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
    assert let_run(job, None, "team", kueue=True) is None
    assert waiting(job, None, kueue=True, now=datetime(2026, 1, 1, tzinfo=UTC)) is not None


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
    patch = let_run(job, None, queue, kueue=True)
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


IN_QUEUE: dict[str, Any] = {
    "evaluation": {"accept": ["EvalMissing"], "dataset": None, "graders": None},
    "scheduling": {"queueName": "team"},
}


class Cluster(KubernetesSimulation):
    """The simulation with Kueue and one LocalQueue; `admits` are the Jobs that have quota."""

    def __init__(self, **changes: Any):
        super().__init__(**changes)
        self.kueue = True
        self.manages_every_job = False
        self.admits: set[str] = set()
        self.workloads: dict[str, dict[str, Any]] = {}

    def observe(self) -> Observed:
        return replace(super().observe(), workloads=dict(self.workloads), kueue=self.kueue)

    def reconcile(self) -> bool:
        changed = super().reconcile()
        before = json.dumps([self.jobs, self.workloads], sort_keys=True)
        for name, job in self.jobs.items():
            if self.kueue and (QUEUE in job["metadata"]["labels"] or self.manages_every_job):
                self._queue(name, job)
        self._run_pods()
        return changed or before != json.dumps([self.jobs, self.workloads], sort_keys=True)

    def _queue(self, name: str, job: dict[str, Any]) -> None:
        found = self.workloads.setdefault(name, workload_of(name))
        found["spec"]["queueName"] = job["metadata"]["labels"].get(QUEUE, "")
        admitted = name in self.admits and found["spec"]["active"] and found["spec"]["queueName"] != ""
        job["spec"]["suspend"] = not admitted
        before = condition_of(found, "Admitted")["status"]
        if before == "True" and not admitted:
            reason = "Preempted" if found["spec"]["active"] else "Deactivated"
            condition_of(found, "Evicted").update(status="True", reason=reason, message=f"{reason} by test")
        condition_of(found, "Admitted")["status"] = str(admitted)
        condition_of(found, "QuotaReserved")["status"] = str(admitted)
        if admitted:
            condition_of(found, "Evicted")["status"] = "False"

    def _perform(self, action: Any) -> bool:
        if isinstance(action, Patch) and action.kind == "Workload":
            name = next(n for n, w in self.workloads.items() if w["metadata"]["name"] == action.name)
            self.workloads[name] = merged(self.workloads[name], action.body)
            return True
        return super()._perform(action)

    def admit(self, name: str) -> None:
        """There is quota for the Job."""
        self.admits.add(name)
        self.pass_time(2)

    def preempt(self, name: str) -> None:
        """Somebody else needs the quota more."""
        self.admits.discard(name)
        self.pass_time(2)


def workload_of(name: str) -> dict[str, Any]:
    short = {"type": "QuotaReserved", "status": "False", "reason": "Pending", "message": "1 more needed"}
    others = [
        {"type": kind, "status": "False", "reason": "", "message": ""} for kind in ("Admitted", "Evicted")
    ]
    return {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "Workload",
        "metadata": {"name": f"job-{name}-abcde"},
        "spec": {"active": True, "queueName": "team"},
        "status": {"conditions": [short, *others]},
    }


def condition_of(manifest: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(c for c in manifest["status"]["conditions"] if c["type"] == kind)


def waiting_to_train() -> tuple[Cluster, str]:
    world = Cluster(**IN_QUEUE)
    world.to("train")
    return world, world.running()


def test_a_queued_run_waits_and_runs_when_kueue_admits_it() -> None:
    world, name = waiting_to_train()
    assert [created.split("-")[1] for created in world.created] == ["prepare", "train"]
    assert world.condition("Admitted") == ("False", "Pending")
    assert world.message("Admitted") == "Waiting in LocalQueue team: 1 more needed."
    assert name not in world.pods
    world.admit(name)
    assert world.condition("Admitted") == ("True", "Scheduled")
    world.end().end()
    assert world.condition("Succeeded")[0] == "True"
    assert world.jobs[world.created[-1]]["metadata"]["labels"]["finetune.dev/stage"] == "publish"
    assert world.created[-1] not in world.workloads


def test_a_preempted_run_goes_on_with_the_same_attempt() -> None:
    world, name = waiting_to_train()
    for _ in range(5):  # more often than a stage may fail
        world.admit(name)
        world.preempt(name)
        assert world.condition("Admitted") == ("False", "Preempted")
    world.pass_time(86_400)
    world.admit(name)
    assert world.condition("Admitted") == ("True", "Scheduled")
    assert [attempt["state"] for attempt in world.status["attempts"]] == ["Succeeded", "Running"]


@pytest.mark.parametrize("admitted", [True, False])
def test_suspending_a_queued_run_deactivates_its_workload_and_resuming_queues_it_again(
    admitted: bool,
) -> None:
    world, name = waiting_to_train()
    if admitted:
        world.admit(name)
    world.change(suspend=True).pass_time(2)
    assert world.workloads[name]["spec"]["active"] is False
    assert name not in world.pods
    assert world.condition("Admitted") == ("False", "Suspended")
    world.change(suspend=False).pass_time(2)
    assert world.workloads[name]["spec"]["active"] is True
    world.admit(name)
    assert world.condition("Admitted") == ("True", "Scheduled")


def test_a_run_that_is_suspended_just_after_its_job_was_created_gets_no_quota() -> None:
    world, name = waiting_to_train()
    world.others.clear()
    world.status["attempts"][-1]["state"] = "Recorded"  # as if this write had not come about
    world.change(suspend=True).pass_time(2)
    assert world.workloads[name]["spec"]["active"] is False
    world.change(suspend=False)
    world.admit(name)
    assert name in world.pods


def test_a_workload_that_somebody_deactivated_stays_so_and_is_shown() -> None:
    world, name = waiting_to_train()
    world.workloads[name]["spec"]["active"] = False
    world.pass_time(600)
    assert world.workloads[name]["spec"]["active"] is False
    assert world.condition("Admitted") == ("False", "Deactivated")


def test_a_run_with_a_queue_waits_before_it_has_a_job_until_kueue_is_installed() -> None:
    world = Cluster(**IN_QUEUE)
    world.kueue = False
    world.settle().end()
    assert world.condition("Admitted") == ("False", "KueueNotInstalled")
    assert len(world.jobs) == 1
    world.kueue = True
    world.pass_time(60)
    assert world.condition("Admitted") == ("False", "Pending")


def test_where_kueue_manages_every_job_the_stages_on_the_cpu_get_the_runs_queue_too() -> None:
    world = Cluster(**IN_QUEUE)
    world.manages_every_job = True
    world.settle()
    name = world.running()
    assert world.jobs[name]["metadata"]["labels"][QUEUE] == "team"
    assert world.condition("Admitted") == ("False", "Pending")
    world.admit(name)
    assert name in world.pods


def test_where_kueue_manages_every_job_a_run_without_a_queue_says_what_to_do() -> None:
    world = Cluster(evaluation=IN_QUEUE["evaluation"])
    world.manages_every_job = True
    world.settle()
    assert world.condition("Admitted") == ("False", "Inadmissible")
    assert "create the run with spec.scheduling.queueName" in world.message("Admitted")
