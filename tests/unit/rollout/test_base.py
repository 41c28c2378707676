"""Whether an adapter belongs to the base of its server, and the command that trains it again."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.modelserver import ModelServer
from finetune_operator.core.actions import Emit, Plan
from finetune_operator.rollout.base import retraining, successor
from finetune_operator.rollout.observed import Observed
from finetune_operator.rollout.plan import plan
from tests.unit.rollout.test_origin import BASE, run
from tests.unit.rollout.test_plan import NOW, SETTINGS, deployment

MOVED, THIRD = "sha256:" + "e" * 64, "sha256:" + "f" * 64
RUN = run("Promote", promoted=True)


def server(told: str | None = None, **base: Any) -> ModelServer:
    """A server with such a base, whose pods told this fingerprint."""
    spec = {"baseModel": {"source": "pvc://models/next", **base}, "artifactStore": "pvc://adapters"}
    metadata = {"name": "shared", "namespace": "demo"}
    return ModelServer.model_validate(
        {"metadata": metadata, "spec": spec, "status": {"baseFingerprint": told}}
    )


def decided(found: ModelServer | None, job: FineTuneJob | None = RUN, **status: Any) -> Plan:
    return plan(Observed(deployment(status), job, found), SETTINGS, NOW)


def fits(of: Plan) -> tuple[str, str, str]:
    """Status, reason and message of FitsBase."""
    assert of.status is not None
    found = next(c for c in of.status["conditions"] if c["type"] == "FitsBase")
    return found["status"], found["reason"], found["message"]


CASES = [
    pytest.param(server(BASE), ("True", "SameBase"), id="the pods have the base it was trained on"),
    pytest.param(server(None, fingerprint=BASE), ("True", "SameBase"), id="so says the spec"),
    pytest.param(
        server(MOVED, derivedFrom=BASE), ("True", "DerivedBase"), id="the base is a quantised form of it"
    ),
    pytest.param(server(MOVED), ("False", "OtherBase"), id="the pods have another base"),
    pytest.param(server(None, fingerprint=MOVED), ("False", "OtherBase"), id="the spec names another base"),
    pytest.param(
        server(MOVED, derivedFrom=THIRD), ("False", "OtherBase"), id="a quantised form of another base"
    ),
    pytest.param(server(), ("Unknown", "NotKnown"), id="no pod has told"),
    pytest.param(None, ("Unknown", "NotKnown"), id="there is no server"),
]


@pytest.mark.parametrize(("found", "expected"), CASES)
def test_an_adapter_belongs_to_the_base_it_was_trained_on(
    found: ModelServer | None, expected: tuple[str, str]
) -> None:
    assert fits(decided(found))[:2] == expected


def test_a_run_that_does_not_tell_its_base_proves_nothing() -> None:
    silent = RUN.model_copy(update={"status": RUN.status.model_copy(update={"resolved": None})})
    assert fits(decided(server(MOVED), silent))[:2] == ("Unknown", "NotKnown")


def test_another_base_is_told_once_with_both_fingerprints_and_what_to_do() -> None:
    found = decided(server(MOVED))
    message = fits(found)[2]
    assert all(part in message for part in (BASE[:19], MOVED[:19], "status.retrain", "run-eeeeee"))
    assert [e.reason for e in found.actions if isinstance(e, Emit) and e.type == "Warning"] == ["OtherBase"]
    assert found.status is not None
    again = decided(server(MOVED), **found.status)
    assert [e for e in again.actions if isinstance(e, Emit)] == []


@pytest.mark.parametrize(
    ("found", "words"),
    [
        pytest.param(server(MOVED), "create a FineTuneJob with spec.baseModel", id="the run is deleted"),
        pytest.param(server(MOVED, derivedFrom=THIRD), THIRD, id="the server's base is quantised"),
        pytest.param(
            server(None, source="s3://models/next", fingerprint=MOVED),
            "copy the model from s3://models/next to a claim",
            id="the server's base is in a bucket",
        ),
    ],
)
def test_where_no_command_can_do_it_words_say_what_to_do(found: ModelServer, words: str) -> None:
    before = decided(server(BASE)).status
    assert before is not None
    after = decided(found, None, resolved=before["resolved"])
    assert words in fits(after)[2]
    assert after.status is not None
    assert "retrain" not in after.status


def test_an_adapter_that_is_about_to_be_replaced_is_not_trained_again() -> None:
    before = decided(server(BASE)).status
    assert before is not None
    asked = deployment({"resolved": before["resolved"]}, adapter={"fineTuneJobRef": {"name": "next"}})
    waiting = FineTuneJob.model_validate(
        {"metadata": {"name": "next"}, "spec": RUN.spec.model_dump(by_alias=True)}
    )
    after = plan(Observed(asked, waiting, server(MOVED)), SETTINGS, NOW)
    assert "condition Resolved" in fits(after)[2]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("reviews", "reviews-eeeeee", id="a short name"),
        pytest.param("a" * 40, "a" * 33 + "-eeeeee", id="the longest name"),
        pytest.param("a" * 32 + "-bcdefgh", "a" * 32 + "-eeeeee", id="a name that is cut at a hyphen"),
    ],
)
def test_the_next_run_has_a_name_that_tells_its_base(name: str, expected: str) -> None:
    assert successor(name, MOVED) == expected


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
def test_the_commands_middle_makes_a_run_on_the_new_base() -> None:
    job = FineTuneJob.model_validate(
        {**RUN.model_dump(by_alias=True), "metadata": {"name": "run", "namespace": "demo", "uid": "u"}}
    )
    base = {"source": "hf://org/next", "revision": "a" * 40, "fingerprint": MOVED}
    _, middle, last = retraining(job, base, "run-eeeeee", MOVED).split(" | ")
    assert last == "kubectl create -f -"
    stored: dict[str, Any] = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": job.metadata.model_dump(by_alias=True, exclude_none=True),
        "spec": job.spec.to_dict(),
        "status": job.status.to_dict(),
    }
    made = subprocess.run(
        ["/bin/sh", "-c", middle], input=json.dumps(stored), capture_output=True, text=True, check=True
    )
    made_of = json.loads(made.stdout)
    assert made_of["metadata"] == {"name": "run-eeeeee", "namespace": "demo"}
    assert "status" not in made_of
    assert made_of["spec"] == {
        **stored["spec"],
        "baseModel": base,
        "output": {"destination": "pvc://adapters/run-eeeeee"},
    }
