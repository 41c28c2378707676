"""What an administrator is told whose CRDs are missing or older than the operator."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from finetune_operator.generate.crd import object_schema
from finetune_operator.generate.kinds import KINDS
from finetune_operator.runtime.metrics import Metrics
from finetune_operator.runtime.process.crds import missing_fields, require_crds, tell_missing_fields
from finetune_operator.runtime.process.lifecycle import StartError

DISCOVERY = "/apis/finetune.dev/v1alpha1"
OPENAPI = "/openapi/v3/apis/finetune.dev/v1alpha1"
SCHEMAS = {kind.name: object_schema(kind) for kind in KINDS}


def served(**schemas: Any) -> dict[str, Any]:
    """The server's document; `schemas` replaces some of ours."""
    known = {
        f"dev.finetune.v1alpha1.{kind}": {
            **schema,
            "x-kubernetes-group-version-kind": [
                {"group": "finetune.dev", "version": "v1alpha1", "kind": kind}
            ],
        }
        for kind, schema in {**SCHEMAS, **schemas}.items()
    }
    return {"components": {"schemas": known}}


def gauge(metrics: Metrics, kind: str) -> float | None:
    return metrics.registry.get_sample_value("finetune_operator_crd_missing_fields", {"kind": kind})


async def test_missing_crds_are_named_with_the_way_to_install_them(server: Any, api: Any) -> None:
    server.objects[DISCOVERY] = {"resources": [{"name": "finetunejobs"}, {"name": "finetunejobs/status"}]}
    with pytest.raises(StartError, match=r"modelservers, adapterdeployments .*kubectl apply .*Helm"):
        await require_crds(api)


async def test_equal_crds_are_not_talked_about(
    server: Any, api: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server.objects[OPENAPI] = served()
    metrics = Metrics()
    await tell_missing_fields(api, SCHEMAS, metrics)
    assert caplog.records == []
    assert gauge(metrics, "FineTuneJob") == 0


async def test_an_older_crd_is_named_with_its_fields_and_the_remedy(
    server: Any, api: Any, caplog: pytest.LogCaptureFixture
) -> None:
    old = dict(SCHEMAS["ModelServer"]["properties"]["status"]["properties"])
    del old["manifestGeneration"]
    properties = {**SCHEMAS["ModelServer"]["properties"], "status": {"type": "object", "properties": old}}
    server.objects[OPENAPI] = served(ModelServer={"properties": properties})
    metrics = Metrics()
    with caplog.at_level(logging.WARNING):
        await tell_missing_fields(api, SCHEMAS, metrics)
    (record,) = caplog.records
    assert vars(record)["fields"] == ["status.manifestGeneration"]
    assert "apply `kubectl apply" in record.getMessage()
    assert (gauge(metrics, "ModelServer"), gauge(metrics, "FineTuneJob")) == (1, 0)


async def test_a_server_that_shows_no_schemas_does_not_keep_the_operator_from_starting(
    server: Any, api: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server.fault("GET", OPENAPI, 403, "Forbidden")
    await tell_missing_fields(api, SCHEMAS, Metrics())
    await tell_missing_fields(api, SCHEMAS, Metrics())
    assert [record.message for record in caplog.records] == ["the schemas of the CRDs cannot be read"]


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


_LEAF = {"type": "string"}


@pytest.mark.parametrize(
    ("ours", "theirs", "missing"),
    [
        (_object(a=_LEAF), _object(a=_LEAF, b=_LEAF), []),
        (_object(a=_LEAF, b=_LEAF), _object(a=_LEAF), ["b"]),
        (_object(a={"items": _object(b=_LEAF)}), _object(a={"items": _object()}), ["a[].b"]),
        (
            _object(a={"additionalProperties": _object(b=_LEAF)}),
            _object(a={"additionalProperties": _object()}),
            ["a[].b"],
        ),
        (_object(a=_LEAF), {"x-kubernetes-preserve-unknown-fields": True}, []),
        (_object(metadata=_object(a=_LEAF)), _object(metadata={}), []),
    ],
    ids=["a newer CRD", "an older CRD", "in a list", "in a map", "a CRD without a schema", "metadata"],
)
def test_fields_are_missing_where_only_our_schema_has_them(
    ours: Any, theirs: Any, missing: list[str]
) -> None:
    assert list(missing_fields(ours, theirs)) == missing
