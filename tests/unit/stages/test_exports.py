"""A run that sends its evaluation elsewhere: who gets the tokens, and that the result is the same without."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.contracts.digests import spec_digest
from tests.unit.stages.kubernetes_simulation import KubernetesSimulation
from tests.unit.stages.rendered import STAGES, main_of, mounts_of, pod_of

SENT: dict[str, Any] = {
    "evaluation": {
        "export": {
            "mlflow": {
                "trackingUri": "https://mlflow.example",
                "experiment": "reviews",
                "credentialsSecretRef": {"name": "tracking-token"},
            },
            "openTelemetry": {
                "endpoint": "https://collector.example:4318",
                "credentialsSecretRef": {"name": "collector-token"},
            },
        }
    }
}


@pytest.mark.parametrize("stage", STAGES)
def test_the_tokens_are_given_to_publish_alone(stage: str) -> None:
    publishes = stage == "publish"
    for purpose, secret in (("mlflow", "tracking-token"), ("open-telemetry", "collector-token")):
        assert (f"/etc/finetune/credentials/{purpose}" in mounts_of(main_of(stage, **SENT))) == publishes
        assert (secret in str(pod_of(stage, **SENT)["volumes"])) == publishes


def test_where_an_evaluation_is_sent_to_does_not_decide_the_result() -> None:
    specs = [FineTuneJob.model_validate(KubernetesSimulation(**given).object).spec for given in ({}, SENT)]
    assert spec_digest(specs[0]) == spec_digest(specs[1])
