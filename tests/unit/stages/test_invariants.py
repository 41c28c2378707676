"""What holds for every history and every observation, however odd."""

from __future__ import annotations

import json
from copy import deepcopy
from datetime import UTC, datetime
from functools import cache
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import FineTuneJobStatus
from finetune_operator.core.actions import Emit
from finetune_operator.core.manifests import finished
from finetune_operator.stages.observed import Observed
from finetune_operator.stages.plan import plan
from tests.unit.stages.kubernetes_simulation import SETTINGS, SPEC, KubernetesSimulation, result_of

RELAXED = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
NOW = datetime(2026, 1, 1, tzinfo=UTC)
STAGES = ("prepare", "baseline", "train", "evaluate", "publish")

_KEYS = st.sampled_from(
    ["status", "spec", "metadata", "conditions", "containerStatuses", "initContainerStatuses", "state", "waiting",
     "terminated", "message", "reason", "type", "phase", "name", "image", "uid", "suspend", "summary", "outcome",
     "labels", "lastTransitionTime", "exitCode", "restartCount", "lastState", "accessModes", "startTime", "volumes"]
)  # fmt: skip
_WORDS = st.sampled_from(
    ["True", "False", "Failed", "Complete", "Succeeded", "Running", "engine", "OOMKilled", "ErrImagePull", "PodScheduled",
     "DisruptionTarget", "PodReadyToStartContainers", "2026-01-01T00:00:00Z", "not a time", "", "Evicted",
     *(result_of(stage) for stage in STAGES)]
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _WORDS | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(_KEYS | st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=25,
)
OBJECTS = st.dictionaries(_KEYS, JSON, max_size=6)


@cache
def _played_to(stage: str) -> KubernetesSimulation:
    return KubernetesSimulation().to(stage)


def at(stage: str) -> KubernetesSimulation:
    """A run whose stage is running, as a copy of its own."""
    return deepcopy(_played_to(stage))


@RELAXED
@given(
    st.sampled_from(STAGES),
    OBJECTS,
    st.lists(OBJECTS, max_size=3),
    st.none() | OBJECTS,
    st.dictionaries(st.just("models"), OBJECTS),
)
def test_the_plan_is_total_and_its_status_can_always_be_written(
    stage: str, child: dict[str, Any], pods: list[dict[str, Any]], progress: Any, claims: dict[str, Any]
) -> None:
    world = at(stage)
    name = world.running()
    job = FineTuneJob.model_validate(world.object)
    observed = Observed(
        job, {name: child}, {name: tuple(pods)}, {**world.claims, **claims}, frozenset(), progress
    )
    first = plan(observed, SETTINGS, NOW)
    assert first == plan(observed, SETTINGS, NOW), "the plan is deterministic"
    FineTuneJobStatus.model_validate(first.status)
    json.dumps(first.status, allow_nan=False)


@RELAXED
@given(st.sampled_from(STAGES), OBJECTS)
def test_any_summary_becomes_a_status_that_can_be_written(stage: str, summary: dict[str, Any]) -> None:
    world = at(stage)
    document = {
        "schemaVersion": 1,
        "stage": stage,
        "outcome": "Succeeded",
        "reason": "Completed",
        "summary": summary,
    }
    world.end(json.dumps(document))
    FineTuneJobStatus.model_validate(world.status)


@RELAXED
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "adopted": st.booleans(),
            "verdict": JSON,
            "blocking": JSON,
            "graders": st.dictionaries(st.text(max_size=100), JSON, max_size=12),
            "rows": JSON,
            "base": OBJECTS,
            "warnings": st.lists(st.text(max_size=2000), max_size=40),
            "training": st.dictionaries(st.sampled_from(["epochs", "learningRate", "seed"]), JSON),
            "memory": OBJECTS
            | st.dictionaries(st.sampled_from(["fits", "peakGiB", "breakdown", "chosen"]), JSON | OBJECTS),
            "estimate": st.dictionaries(
                st.sampled_from(["cost", "costLow", "currency", "hours", "mfu"]), JSON
            ),
            "savings": st.dictionaries(st.sampled_from(["perMonth", "breakEvenDays"]), JSON),
            "advice": st.lists(
                st.fixed_dictionaries({"reason": _WORDS | st.text(), "message": st.text(max_size=2000)})
                | OBJECTS,
                max_size=12,
            ),
            "overrides": st.dictionaries(st.text(max_size=100), JSON, max_size=80),
            "peakGiB": JSON,
            "mfu": JSON,
            "artifact": st.dictionaries(st.sampled_from(["digest", "promoted", "verdict"]), JSON),
        },
    ),
    st.sampled_from(STAGES),
)
def test_a_summary_with_the_right_names_and_wrong_values_is_harmless(
    summary: dict[str, Any], stage: str
) -> None:
    world = at(stage)
    world.end(result_of(stage, **summary))
    FineTuneJobStatus.model_validate(world.status)


MOVES = [
    "succeed",
    "unknown",
    "interrupted",
    "user error",
    "lose pods",
    "delete job",
    "suspend",
    "resume",
    "wait",
    "wipe pods",
    "block",
    "accept",
]


def play(world: KubernetesSimulation, move: str) -> None:
    """One thing that may happen to a run; nothing if there is no running Job it could happen to."""
    live = [name for name, job in world.jobs.items() if not finished(job)]
    if move in ("suspend", "resume"):
        world.change(suspend=move == "suspend")
    elif move == "wait":
        world.pass_time(3600)
    elif move == "accept":
        world.change(evaluation={"accept": ["CheckTaskOrData", "NoClearImprovement"]})
    elif live and live[0] in world.pods:
        _to_a_job(world, live[0], move)


def _to_a_job(world: KubernetesSimulation, name: str, move: str) -> None:
    stage = world.jobs[name]["metadata"]["labels"]["finetune.dev/stage"]
    reasons = {"unknown": "Unknown", "interrupted": "Interrupted", "user error": "UserError"}
    if move == "succeed":
        world.end(result_of(stage))
    elif move == "block":
        world.end(result_of(stage, verdict="CheckTaskOrData", blocking=True))
    elif move in reasons:
        world.end(result_of(stage, "Failed", reasons[move]))
    elif move == "delete job":
        world._delete("Job", name, world.jobs[name]["metadata"]["uid"])
        world.settle()
    elif move == "lose pods":
        world.finish_job(name, good=False)
        world.pods[name] = []
        world.settle()
    elif move == "wipe pods":
        world.pods[name] = [dict(p, status={"phase": "Running"}) for p in world.pods[name]]
        world.settle()


@RELAXED
@given(st.lists(st.sampled_from(MOVES), max_size=25))
def test_every_history_keeps_the_promises(moves: list[str]) -> None:
    world = KubernetesSimulation().settle()
    outcomes: dict[tuple[str, int], str] = {}
    ended: str | None = None
    for move in moves:
        play(world, move)
        live = [name for name, job in world.jobs.items() if not finished(job)]
        assert len(live) <= 1, "one Job at a time"
        assert len(set(world.created)) == len(world.created), "no Job is created twice"
        for attempt in world.status["attempts"]:
            key = (attempt["stage"], attempt["number"])
            before = outcomes.setdefault(key, attempt["state"])
            assert before in ("Recorded", "Running") or before == attempt["state"], (
                "a recorded outcome is final"
            )
            outcomes[key] = attempt["state"]
        now = json.dumps([c for c in world.status["conditions"] if c["type"] == "Succeeded"])
        assert ended is None or ended == now, "the end is final"
        ended = now if world.condition("Succeeded")[0] != "Unknown" else None
        assert_at_rest(world)


def assert_at_rest(world: KubernetesSimulation) -> None:
    """The plan asks for nothing that is not there already."""
    decided = world.decide()
    assert json.loads(json.dumps(decided.status)) == world.status
    assert [a for a in decided.actions if isinstance(a, Emit)] == []


@RELAXED
@given(st.lists(st.sampled_from(MOVES), max_size=12), st.integers(0, 20))
def test_repeating_every_reconcile_changes_nothing(moves: list[str], seed: int) -> None:
    """A crash after the actions and before the status is one more reconcile of the same observation."""
    calm, nervous = KubernetesSimulation().settle(), KubernetesSimulation()
    write = nervous.reconcile

    def twice() -> bool:
        status = json.loads(json.dumps(nervous.object.get("status")))
        write()
        if (seed + len(nervous.created)) % 2:
            nervous.object["status"] = status  # the operator was killed before it wrote the status
            if status is None:
                del nervous.object["status"]
            write()
        return write()

    nervous.reconcile = twice  # type: ignore[method-assign]
    nervous.settle()
    for move in moves:
        play(calm, move)
        play(nervous, move)
    assert nervous.created == calm.created
    assert nervous.status == calm.status
    assert set(nervous.jobs) == set(calm.jobs)


def test_the_sample_spec_is_a_valid_one() -> None:
    FineTuneJob.model_validate({"metadata": {"name": "run"}, "spec": SPEC})
