"""What a manifest is refused for; config and weights are in test_adapter_variants."""

from dataclasses import replace
from typing import Any

import pytest

from finetune_serving.agent.preflight import Limits, check_manifest
from finetune_serving.agent.refusal import RefusedError
from finetune_serving.documents import AdapterManifest, VersionEntry

LIMITS = Limits("sha256:" + "b" * 64, 16)
ENTRY = VersionEntry(name="a--1", source="pvc://adapters/a", digest="sha256:" + "a" * 64)


def adapter(**changes: Any) -> AdapterManifest:
    document = {
        "schemaVersion": 1,
        "kind": "Adapter",
        "baseModel": {"fingerprint": LIMITS.base_fingerprint},
        "adapter": {"rank": 8},
        "files": [],
        "promoted": True,
    }
    return AdapterManifest.model_validate(document | changes)


def reason_of_manifest(manifest: AdapterManifest, entry: VersionEntry = ENTRY) -> str:
    try:
        check_manifest(manifest, entry, LIMITS)
    except RefusedError as error:
        return error.reason
    return ""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({}, "", id="a fitting adapter passes"),
        pytest.param({"kind": "Model", "adapter": None}, "InvalidArtifact", id="a whole model is no adapter"),
        pytest.param({"baseModel": {"fingerprint": "sha256:" + "c" * 64}}, "BaseMismatch", id="other base"),
        pytest.param({"promoted": False}, "Unpromoted", id="an adapter that did not pass its gate"),
        pytest.param({"adapter": {"rank": 17}}, "RankTooLarge", id="a rank above the server's"),
        pytest.param({"adapter": {"rank": 16}}, "", id="the largest rank still fits"),
    ],
)
def test_manifest(changes: dict[str, Any], reason: str) -> None:
    assert reason_of_manifest(adapter(**changes)) == reason


def test_allow_unpromoted_lets_it_through() -> None:
    allowed = ENTRY.model_copy(update={"allow_unpromoted": True})
    assert reason_of_manifest(adapter(promoted=False), allowed) == ""


def test_adapters_of_the_original_are_served_on_a_quantised_base_that_names_it_and_no_others() -> None:
    original, other = ("sha256:" + digit * 64 for digit in "cd")
    quantised = replace(LIMITS, derived_from=original)
    check_manifest(adapter(baseModel={"fingerprint": original}), ENTRY, quantised)
    check_manifest(adapter(), ENTRY, quantised)
    with pytest.raises(RefusedError, match="derivedFrom"):
        check_manifest(adapter(baseModel={"fingerprint": other}), ENTRY, quantised)
    with pytest.raises(RefusedError, match="derivedFrom"):
        check_manifest(adapter(baseModel={"fingerprint": original}), ENTRY, LIMITS)
